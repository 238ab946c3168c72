"""Handlers of the SDK's agent against a scripted hub: what they yield, return and raise is what the hub is told."""

import asyncio
import json
import re
import threading

import pytest

from meshway.client import Agent, Artifact, Part, Progress, Reject, Retry
from meshway.protocols.link import frames
from support.agent_at_work import agent_at_work, task_delivery


async def test_yielded_text_is_one_artifact_in_chunks():
    agent = Agent("counter")

    @agent.handler
    async def count(task):
        for number in range(int(task.text)):
            yield f"{number} "

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, "3"))
        await work.until_state("COMPLETED")
    assert work.chunks() == [("0 ", False, False), ("1 ", True, False), ("2 ", True, True)]
    assert {each["artifactUpdate"]["artifact"]["artifactId"] for each in work.events()[:3]} == {"turn-1-1"}
    assert {each["artifactUpdate"]["taskId"] for each in work.events()[:3]} == {"t-1"}
    assert work.states() == ["COMPLETED"]


async def test_a_chunk_is_not_held_back_and_the_end_is_marked_all_the_same():
    agent, gate = Agent("slow"), asyncio.Event()

    @agent.handler
    async def slow(task):
        yield "first"
        await gate.wait()

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.hub.until(lambda: work.hub.reports)
        assert work.chunks() == [("first", False, False)]
        gate.set()
        await work.until_state("COMPLETED")
    assert work.chunks() == [("first", False, False), ("", True, True)]


async def test_artifacts_and_progress_keep_their_place_among_chunks():
    agent = Agent("mixed")

    @agent.handler
    async def mixed(task):
        yield "a"
        yield Progress("half", {"done": 0.5})
        yield Artifact.of("# Report", {"n": 1}, name="report.md", description="All of it")
        yield Part(url="https://example.com/a.png", media_type="image/png")
        yield {"n": 2}
        yield b"\x00\x01"
        yield "b"

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("COMPLETED")
    events = work.events()
    artifacts = [each["artifactUpdate"]["artifact"] for each in events if "artifactUpdate" in each]
    assert [each["parts"] for each in artifacts] == [
        [{"text": "a"}],
        [{"text": "# Report"}, {"data": {"n": 1}}],
        [{"url": "https://example.com/a.png", "mediaType": "image/png"}],
        [{"data": {"n": 2}}],
        [{"raw": "AAE="}],
        [{"text": "b"}],
    ]
    assert (artifacts[1]["name"], artifacts[1]["description"]) == ("report.md", "All of it")
    assert [each["artifactId"] for each in artifacts] == [f"turn-1-{n}" for n in (1, 2, 3, 4, 5, 1)]
    progress = events[1]["statusUpdate"]
    assert progress["metadata"] == {"done": 0.5}
    assert progress["status"]["message"]["parts"] == [{"text": "half"}]
    assert work.states() == ["WORKING", "COMPLETED"]


@pytest.mark.parametrize(
    ("result", "parts"),
    [("done", [{"text": "done"}]), ({"n": 1}, [{"data": {"n": 1}}]), ([1, None], [{"data": [1, None]}]), (None, None)],
)
async def test_a_returned_value_is_one_artifact(result, parts):
    agent = Agent("returning")

    @agent.handler
    async def give(task):
        return result

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("COMPLETED")
    updates = [each["artifactUpdate"] for each in work.events() if "artifactUpdate" in each]
    assert [each["artifact"]["parts"] for each in updates] == ([] if parts is None else [parts])
    assert [(each["append"], each["lastChunk"]) for each in updates] == ([] if parts is None else [(False, True)])


async def test_blocking_functions_and_generators_run_in_threads():
    agent, threads = Agent("blocking"), []

    @agent.skill("whole")
    def whole(task):
        threads.append(threading.current_thread())
        task.wait_for(task.progress("on it"))
        task.report_cost(2)
        return task.text.upper()

    @agent.skill("parts")
    def parts(task):
        for word in task.text.split():
            threads.append(threading.current_thread())
            yield word
        return {"words": 2}

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, "good day", message={"metadata": {"skill": "whole"}}))
        await work.hand(task_delivery(2, "good day", task="t-2", message={"metadata": {"skill": "parts"}}))
        await work.until_state("COMPLETED", "d-1")
        await work.until_state("COMPLETED", "d-2")
    assert threading.main_thread() not in threads
    assert work.states("d-1") == ["WORKING", "COMPLETED"]
    assert work.chunks("d-1") == [("GOOD DAY", False, True)]
    assert work.events("d-1")[-1]["statusUpdate"]["metadata"] == {"cost": 2.0}
    assert work.chunks("d-2") == [("good", False, False), ("day", True, True), (None, False, True)]


async def test_what_the_handler_raises_becomes_the_end_of_the_task():
    agent = Agent("raising", retry_on=(ConnectionError,))

    @agent.handler
    async def fail(task):
        yield "so far "
        match task.text:
            case "fail":
                raise ValueError("no such product")
            case "retry":
                raise Retry("rate limited", delay_ms=250)
            case "reject":
                raise Reject("never")
            case "by type":
                raise ConnectionResetError("gone")
            case "unsayable":
                yield {"a": object()}
            case "half a character":
                yield "\ud800"

    cases = ("fail", "retry", "reject", "by type", "unsayable", "half a character")
    async with agent_at_work(agent) as work:
        await work.hand(*(task_delivery(n, text, task=f"t-{n}") for n, text in enumerate(cases, 1)))
        await work.hub.until(lambda: len(work.hub.task_settlements) == 3)
        for failed in ("d-1", "d-5", "d-6"):
            await work.until_state("FAILED", failed)
    assert work.status_text("d-1") == "ValueError: no such product"
    assert work.status_text("d-5").startswith("TypeError")
    assert work.status_text("d-6").startswith("UnicodeEncodeError")
    # What was said before stands.
    assert work.chunks("d-1")[0][0] == "so far "
    settled = {each.delivery_id: each for each in work.hub.task_settlements}
    assert (settled["d-2"].action, settled["d-2"].delay_ms, settled["d-2"].reason) == ("retry", 250, "rate limited")
    assert (settled["d-3"].action, settled["d-3"].reason) == ("fail", "never")
    assert (settled["d-4"].action, settled["d-4"].reason) == ("retry", "ConnectionResetError: gone")


async def test_cost_travels_with_the_next_status_or_soon():
    agent, gate = Agent("costly"), asyncio.Event()

    @agent.handler
    async def spend(task):
        task.report_cost(1.5)
        task.report_cost(1)
        await gate.wait()
        task.report_cost(4)
        with pytest.raises(ValueError, match="at least 0"):
            task.report_cost(-1)

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("WORKING")
        gate.set()
        await work.until_state("COMPLETED")
    costs = [each["statusUpdate"]["metadata"]["cost"] for each in work.events()]
    assert costs == [2.5, 4.0]


async def test_the_card_is_made_of_the_handlers():
    agent = Agent("helper", name="Helper", labels={"zone": "a"}, capacity=3)

    @agent.skill("sum-up", tags=["text"], examples=["Sum up this"])
    async def sum_up(task):
        """Makes it short."""

    @agent.skill("translate", name="Translate")
    async def translate(task):
        return "Übersetzt"

    async with agent_at_work(agent) as work:
        serve = work.hub.of(frames.Serve)[0]
    card = json.loads(bytes(serve.card))
    assert (serve.agent, serve.labels, serve.capacity, serve.credit) == ("helper", {"zone": "a"}, 3, 3)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", serve.instance)
    assert "supportedInterfaces" not in card
    assert card["skills"][0] == {
        "id": "sum-up",
        "name": "Sum up",
        "description": "Makes it short.",
        "tags": ["text"],
        "examples": ["Sum up this"],
    }
    assert card["skills"][1]["name"] == "Translate"
    assert all(each["tags"] and each["description"] for each in card["skills"])
    assert (card["name"], card["version"], card["capabilities"]["streaming"]) == ("Helper", "1.0.0", True)


async def test_a_plain_handler_is_one_skill_described_by_its_docstring():
    agent = Agent("counter")

    @agent.handler
    async def count(task):
        """Counts up."""

    assert agent.card["description"] == "Counts up."
    assert [each["description"] for each in agent.card["skills"]] == ["Counts up."]


async def test_the_message_names_the_skill_and_who_answers_a_question_need_not():
    agent = Agent("two")

    @agent.skill("a")
    async def first(task):
        return "a"

    @agent.skill("b")
    async def second(task):
        return "b"

    chosen = {"metadata": {"skill": "b"}}
    before = {"id": "t-4", "history": [{"messageId": "m-0", "role": "ROLE_USER", "parts": [], **chosen}]}
    async with agent_at_work(agent) as work:
        await work.hand(
            task_delivery(1, message=chosen),
            task_delivery(2, task="t-2", message={"metadata": {"skill": "c"}}),
            task_delivery(3, task="t-3"),
            task_delivery(4, task="t-4", turn=2, before=before),
        )
        await work.until_state("COMPLETED", "d-1")
        await work.until_state("COMPLETED", "d-4")
        await work.until_state("REJECTED", "d-2")
        await work.until_state("REJECTED", "d-3")
        # Rejected ones give their slots back.
        await work.hub.until(lambda: sum(frame.messages for frame in work.hub.of(frames.Credit)) == 4)
    assert work.chunks("d-1") == work.chunks("d-4") == [("b", False, True)]
    assert work.status_text("d-2") == "No skill 'c' here; there are: a, b."


async def test_the_only_skill_takes_what_names_none():
    agent = Agent("one")

    @agent.skill("only")
    def only(task):
        return "done"

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("COMPLETED")
    assert work.chunks() == [("done", False, True)]


async def test_an_agent_without_declared_skills_takes_whatever_its_callers_name():
    agent = Agent("plain")

    @agent.handler
    async def plain(task):
        return "done"

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, message={"metadata": {"skill": "plain"}}))
        await work.until_state("COMPLETED")


async def test_a_task_shows_what_it_was_given():
    agent, seen = Agent("seeing"), []

    @agent.handler
    async def look(task):
        seen.append(task)

    before = {
        "id": "t-1",
        "contextId": "c-1",
        "status": {"state": "TASK_STATE_INPUT_REQUIRED"},
        "history": [
            {"messageId": "m-0", "role": "ROLE_USER", "parts": [{"text": "first"}]},
            {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "second"}]},
        ],
    }
    async with agent_at_work(agent) as work:
        await work.hand(
            task_delivery(1, "second", attempt=2, turn=2, before=before, deadline="2026-11-22T07:00:00.000Z")
        )
        await work.until_state("COMPLETED")
    (task,) = seen
    assert (task.id, task.context_id, task.text, task.attempt, task.turn) == ("t-1", "c-1", "second", 2, 2)
    assert task.deadline.isoformat() == "2026-11-22T07:00:00+00:00"
    assert [each.text for each in task.history] == ["first"]
    assert task.previous.status.state == "TASK_STATE_INPUT_REQUIRED"
    assert not task.is_cancelled


def test_agents_refuse_what_the_hub_would_refuse():
    with pytest.raises(ValueError, match="no id"):
        Agent("Not An Id")
    with pytest.raises(ValueError, match="capacity"):
        Agent("a", capacity=0)
    agent = Agent("a")
    agent.handler(print)
    with pytest.raises(ValueError, match="already"):
        agent.handler(print)
    agent.skill("s")(print)
    with pytest.raises(ValueError, match="already"):
        agent.skill("s")(print)


async def test_an_agent_without_a_handler_does_not_begin():
    with pytest.raises(ValueError, match="nothing to do"):
        await Agent("idle").serve("http://127.0.0.1:1")
