"""Sending lines: batches in order, and after every kind of end a true word about what is in and where to go on."""

import asyncio
import io
import os
import signal
from collections.abc import Sequence

import pytest

from meshway.cli.bulk_send import BATCH_MESSAGES_MAX, BulkSend, Resume
from meshway.cli.failure import Failure
from meshway.cli.line_source import LineSource
from meshway.cli.message_form import Form, MessageForm, MessageOptions
from meshway.client import HubError, HubUnreachable, NewMessage, Receipt, WrongField


class Hub:
    """Takes posts; `answers` holds what becomes of each, None or missing: all is well."""

    def __init__(self, *answers: Exception | asyncio.Event | None) -> None:
        self.posts: list[list[str]] = []
        self.called = asyncio.Event()
        self._answers = list(answers)

    async def post(self, messages: Sequence[NewMessage]) -> Sequence[Receipt]:
        self.posts.append([str(message.id) for message in messages])
        self.called.set()
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        elif answer is not None:
            raise answer
        return [Receipt(id=str(message.id), duplicate=message.id == "run-2") for message in messages]


class View:
    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []

    def show(self, sent, receipts) -> None:
        self.shown.append((sent.messages, sent.bytes_read))


def bulk(hub: Hub, *, skip: int = 0, is_file: bool = True) -> BulkSend:
    form = MessageForm(Form.JSON, MessageOptions(), id_prefix="run", dedupes=False)
    return BulkSend(form, hub.post, View(), Resume(id_prefix="run", is_file=is_file, skip=skip))


def numbers(count: int) -> io.BytesIO:
    return io.BytesIO(b"".join(b"%d\n" % number for number in range(count)))


async def test_every_line_is_sent_once_in_order_in_bounded_batches():
    hub = Hub()
    sent = await bulk(hub).run(LineSource(numbers(1_234)))
    assert [each for post in hub.posts for each in post] == [f"run-{number}" for number in range(1, 1_235)]
    assert max(len(post) for post in hub.posts) <= BATCH_MESSAGES_MAX
    assert (sent.messages, sent.duplicates, sent.through_line) == (1_234, 1, 1_234)


async def test_a_wrong_line_stops_the_run_after_the_lines_before_it():
    hub = Hub()
    with pytest.raises(Failure) as stopped:
        await bulk(hub).run(LineSource(io.BytesIO(b"1\n2\nthree\n4\n")))
    assert hub.posts == [["run-1", "run-2"]]
    assert stopped.value.exit_code == 2
    assert "Line 3 is not JSON" in stopped.value.message
    assert "--skip 2 --id-prefix run" in stopped.value.hint


async def test_a_refused_message_is_named_by_its_line_and_the_batch_is_not_in():
    wrong = HubError(
        "messages.1.delay_ms: must not be negative",
        code="invalid_request",
        status=400,
        fields=[WrongField("messages.1.delay_ms", "must not be negative")],
    )
    with pytest.raises(Failure) as stopped:
        await bulk(Hub(wrong)).run(LineSource(io.BytesIO(b"1\n\n2\n")))
    assert "Line 3: delay_ms must not be negative" in stopped.value.message
    assert "0 messages are in, through line 0." in stopped.value.hint
    assert "may be" not in stopped.value.hint


async def test_a_batch_that_was_taken_in_part_may_be_in():
    full = HubError("full", code="channel_full", status=429, accepted=["run-1"])
    with pytest.raises(Failure) as stopped:
        await bulk(Hub(full)).run(LineSource(numbers(3)))
    assert stopped.value.code == "channel_full"
    assert "Lines 1 to 3 may be." in stopped.value.hint


async def test_a_hub_that_went_away_is_exit_code_3_with_where_to_go_on():
    hub = Hub(None, HubUnreachable("No hub answers.", url="http://x"))
    with pytest.raises(Failure) as stopped:
        await bulk(hub).run(LineSource(numbers(BATCH_MESSAGES_MAX + 5)))
    assert stopped.value.exit_code == 3
    sent = len(hub.posts[0])
    assert f"through line {sent}." in stopped.value.hint
    assert f"--skip {sent} --id-prefix run" in stopped.value.hint


async def test_arguments_have_no_lines_to_skip():
    lost = HubUnreachable("No hub answers.", url="http://x")
    with pytest.raises(Failure) as stopped:
        await bulk(Hub(lost), is_file=False).run(LineSource(numbers(2)))
    assert "--skip" not in stopped.value.hint
    assert "--id-prefix run" in stopped.value.hint


async def test_ctrl_c_lets_the_batch_under_way_end_and_says_where_to_go_on():
    release = asyncio.Event()
    hub = Hub(release)
    send = bulk(hub)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        run = group.create_task(expect_failure(send, LineSource(numbers(3))))
        await hub.called.wait()
        os.kill(os.getpid(), signal.SIGINT)
        while not send.is_interrupted:  # noqa: ASYNC110  a signal's handler has no event to give
            await asyncio.sleep(0)
        release.set()
    failure = run.result()
    assert (failure.exit_code, failure.code) == (130, "interrupted")
    assert "3 messages are in, through line 3." in failure.hint


async def test_a_second_ctrl_c_gives_the_batch_up_and_says_that_it_may_be_in():
    hub = Hub(asyncio.Event())
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        run = group.create_task(expect_failure(bulk(hub), LineSource(numbers(3))))
        await hub.called.wait()
        os.kill(os.getpid(), signal.SIGINT)
        while not run.done():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
    failure = run.result()
    assert failure.exit_code == 130
    assert "0 messages are in, through line 0. Lines 1 to 3 may be." in failure.hint


async def test_ctrl_c_while_waiting_for_a_pipe_ends_at_once():
    read_end, write_end = os.pipe()
    hub = Hub()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb", buffering=0) as writer:
        writer.write(b"1\n2\n")
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            run = group.create_task(expect_failure(bulk(hub, skip=0), LineSource(reader)))
            await hub.called.wait()
            while not run.done():
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0)
        assert "2 messages are in, through line 2." in run.result().hint
        assert "may be" not in run.result().hint


async def expect_failure(send: BulkSend, lines: LineSource) -> Failure:
    with pytest.raises(Failure) as stopped:
        await send.run(lines)
    return stopped.value
