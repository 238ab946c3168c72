"""From the log to the queue: every event once, whatever died in between."""

import asyncio

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import LogTrim, Undecided
from meshway.gateway.queue_notifications import PUSH_QUEUE
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.metrics import NullMetrics
from meshway.tasks.tokens import events_subject
from support.push_rig import (
    ECHO,
    PATIENCE_S,
    TASK,
    PushRig,
    artifact_update,
    push_rig,
    status_update,
    task_event,
)


class FaultyQueue:
    """Fails the next appends; or does them and does not say so; or loses the first message and does not say so."""

    def __init__(self, queue):
        self._queue = queue
        self.failures = 0
        self.undecided = 0
        self.lost = 0

    def __getattr__(self, name):
        return getattr(self._queue, name)

    async def append(self, messages):
        if self.failures:
            self.failures -= 1
            raise EngineUnavailable("asked for by the test")
        if self.lost:
            self.lost -= 1
            kept = await self._queue.append(messages[1:])
            return [Undecided(reason="asked for by the test"), *kept]
        outcomes = await self._queue.append(messages)
        if self.undecided:
            self.undecided -= 1
            return [Undecided(reason="asked for by the test")] * len(messages)
        return outcomes


async def test_each_event_goes_to_each_config_of_its_task(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.attach(id="one", url="http://127.0.0.1:9/one")
        await rig.attach(id="two", url="http://127.0.0.1:9/two")
        await rig.append(task_event(), status_update())
        await rig.append(task_event(task="other"), task="other")
        sent = await rig.receiver.wait_sent(4)
        await rig.wait_empty()
        assert sorted(notification.url[-3:] for notification in sent) == ["one", "one", "two", "two"]


async def test_events_in_the_log_that_were_never_queued_are_sent_after_the_next_start(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.attach()
        await rig.append(task_event())
        await rig.receiver.wait_sent(1)
        await rig.wait_empty()
        await rig.write(status_update(), artifact_update("a"))
    async with push_rig(tmp_path, clock) as rig:
        await rig.receiver.wait_sent(2)
        await rig.wait_empty()
        assert rig.receiver.numbers == [2, 3]


async def test_a_hub_that_dies_before_it_stored_how_far_it_was_repeats_nothing(tmp_path, clock):
    engine = await open_embedded_engine(tmp_path, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        dead = PushRig(engine, clock)
        await dead.attach()
        await dead.append(task_event(), status_update())
        await dead.queueing.queue_marked()
        async with PushRig(engine, clock).running() as rig:
            await rig.receiver.wait_sent(2)
            await rig.append(status_update())
            await rig.receiver.wait_sent(3)
            await rig.wait_empty()
            assert rig.receiver.numbers == [1, 2, 3]
    finally:
        await engine.close()


async def test_how_far_a_config_was_served_is_stored_when_the_hub_ends(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.attach()
        await rig.append(task_event(), status_update())
        await rig.receiver.wait_sent(2)
    clock.advance(3_600_000)
    async with push_rig(tmp_path, clock) as rig:
        assert (await rig.configs.get(ECHO, TASK, TASK)).last_queued == 2
        await rig.append(status_update())
        await rig.receiver.wait_sent(1)
        await rig.wait_empty()
        assert rig.receiver.numbers == [3]


async def test_an_engine_that_fails_or_does_not_say_costs_no_event_and_no_order(tmp_path, clock):
    faulty = []

    def wrap(queue):
        faulty.append(FaultyQueue(queue))
        return faulty[0]

    async with push_rig(tmp_path, clock, wrap_queue=wrap) as rig:
        faulty[0].failures, faulty[0].undecided = 1, 1
        await rig.attach()
        await rig.append(task_event(), status_update(), artifact_update("a"))
        await rig.receiver.wait_sent(3)
        await rig.wait_empty()
        assert rig.receiver.numbers == [1, 2, 3]


async def test_a_message_the_engine_may_have_lost_is_queued_again_with_those_behind_it(tmp_path, clock):
    faulty = []

    def wrap(queue):
        faulty.append(FaultyQueue(queue))
        return faulty[0]

    async with push_rig(tmp_path, clock, wrap_queue=wrap) as rig:
        faulty[0].lost = 1
        await rig.attach()
        await rig.append(task_event(), status_update(), artifact_update("a"))
        await rig.receiver.wait_sent(3)
        await rig.wait_empty()
        assert sorted(rig.receiver.numbers) == [1, 2, 3]


async def test_what_one_hub_queued_another_does_not_queue_again(tmp_path, clock):
    async with push_rig(tmp_path, clock) as first, PushRig(first.engine, clock).running() as second:
        await first.attach()
        await first.append(task_event(), status_update())
        await first.queueing.queue_marked()
        await first.queueing.save()
        # The watch tells of changes in their order: who knows of the second task knows of the first one's number.
        await first.attach(task="u")
        await first.until(lambda: _knows(second, "u"))
        await first.wait_empty()
        # Longer than the engine remembers message ids.
        clock.advance(600_000)
        await second.append(status_update())
        await second.queueing.queue_marked()
        await first.wait_empty()
        assert sorted(first.receiver.numbers + second.receiver.numbers) == [1, 2, 3]


async def _knows(rig, task):
    return rig.configs.has_configs(ECHO, task)


async def test_a_long_log_is_queued_in_parts_and_in_order(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.write(task_event(), *[artifact_update("x") for _ in range(1_199)])
        await rig.attach()
        await rig.receiver.wait_sent(1_200)
        assert rig.receiver.numbers == list(range(1, 1_201))


async def test_events_that_were_trimmed_before_they_were_queued_are_left_out(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.write(task_event(), status_update(), status_update())
        await rig.engine.log.trim([LogTrim(subject=events_subject(ECHO, TASK), before_sequence=3)])
        await rig.attach()
        await rig.receiver.wait_sent(1)
        await rig.wait_empty()
        assert rig.receiver.numbers == [3]


async def test_a_task_without_configs_costs_no_call_of_the_engine(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.append(task_event())
        async with asyncio.timeout(PATIENCE_S):
            await rig.queueing.queue_marked()
        (depth,) = await rig.engine.queue.depth([PUSH_QUEUE])
        assert depth.waiting == depth.held == 0


async def test_another_hubs_leavings_are_found_by_looking_at_everything(tmp_path, clock):
    async with push_rig(tmp_path, clock) as rig:
        await rig.attach()
        await rig.append(task_event())
        await rig.receiver.wait_sent(1)
        await rig.write(status_update())
        rig.queueing.catch_up()
        await rig.receiver.wait_sent(2)
        assert rig.receiver.numbers == [1, 2]
