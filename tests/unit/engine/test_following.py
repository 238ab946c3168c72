"""Following a prefix: replay, changes, watches that are lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from meshway.engine.ports import KvCaughtUp, KvDeleted, KvEntry, KvEvent, PrefixFollower, SubscriptionLost
from meshway.kernel.errors import EngineUnavailable


class OutOfWatches(Exception):
    """The script is at its end."""


class ScriptedWatches:
    """A KeyValue whose watches tell what was written down for them: each a list of events, with an error at its end.

    A callable among the events is called in its turn; an error alone means that the watch could not be opened.
    """

    def __init__(self, *watches):
        self._watches = list(watches)
        self.prefixes = []

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[KvEvent]]:
        self.prefixes.append(prefix)
        if not self._watches:
            raise OutOfWatches
        script = self._watches.pop(0)
        if isinstance(script, Exception):
            raise script
        yield self._events(script)

    async def _events(self, script):
        for step in script:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
            else:
                yield step


class Picture:
    """A room: keys with their revisions, and all that was told in order."""

    def __init__(self, *watches):
        self.revisions = {}
        self.told = []
        self.pauses_s = []
        self.key_value = ScriptedWatches(*watches)
        self.follower = PrefixFollower(
            self.key_value,
            "p",
            known=lambda: self.revisions,
            entry=self.show,
            deleted=self.hide,
            caught_up=self.caught_up,
            pause=self.pause,
        )

    def show(self, entry):
        self.told.append(f"{entry.key}@{entry.revision}")
        self.revisions[entry.key] = max(entry.revision, self.revisions.get(entry.key, 0))

    def hide(self, event):
        self.told.append(f"-{event.key}@{event.revision}")
        if self.revisions.get(event.key, event.revision + 1) <= event.revision:
            del self.revisions[event.key]

    async def caught_up(self):
        self.told.append("caught up")

    async def pause(self, seconds):
        self.pauses_s.append(seconds)

    async def follow_to_the_end(self):
        async with asyncio.timeout(5):
            with pytest.raises(OutOfWatches):
                await self.follower.run()


def entry(key, revision):
    return KvEntry(key=key, value=b"", revision=revision)


def deleted(key, revision):
    return KvDeleted(key=key, revision=revision, expired=False)


CAUGHT_UP = KvCaughtUp()
LOST = SubscriptionLost("asked for by the test")
UNAVAILABLE = EngineUnavailable("asked for by the test")


async def test_what_was_there_comes_before_it_has_caught_up_and_changes_after():
    picture = Picture([entry("p.a", 1), entry("p.b", 2), CAUGHT_UP, entry("p.c", 3), deleted("p.a", 4)])
    await picture.follow_to_the_end()
    assert picture.told == ["p.a@1", "p.b@2", "caught up", "p.c@3", "-p.a@4"]
    assert picture.key_value.prefixes == ["p", "p"]


@pytest.mark.parametrize("error", [LOST, UNAVAILABLE], ids=lambda error: type(error).__name__)
async def test_a_lost_watch_is_opened_again_and_the_picture_stands_meanwhile(error, caplog):
    picture = Picture([entry("p.a", 1), CAUGHT_UP, error], error, [entry("p.a", 1), CAUGHT_UP, entry("p.b", 2)])
    await picture.follow_to_the_end()
    assert picture.told == ["p.a@1", "caught up", "p.a@1", "caught up", "p.b@2"]
    lost = [record for record in caplog.records if record.message == "prefix_watch_lost"]
    assert [(record.prefix, record.reason) for record in lost] == [("p", "asked for by the test")] * 2


async def test_what_a_replay_lacks_was_deleted_at_the_revision_it_was_known_at():
    picture = Picture([entry("p.a", 1), entry("p.b", 2), CAUGHT_UP, LOST], [entry("p.b", 2), CAUGHT_UP])
    await picture.follow_to_the_end()
    assert picture.told[3:] == ["p.b@2", "-p.a@1", "caught up"]
    assert picture.revisions == {"p.b": 2}


async def test_a_replay_that_breaks_off_deletes_nothing():
    picture = Picture([entry("p.a", 1), entry("p.b", 2), CAUGHT_UP, LOST], [entry("p.b", 2), LOST], UNAVAILABLE)
    await picture.follow_to_the_end()
    assert picture.revisions == {"p.a": 1, "p.b": 2}


async def test_what_the_room_wrote_itself_during_a_replay_stays():
    def write():
        picture.revisions |= {"p.a": 5, "p.new": 6}

    again = [write, CAUGHT_UP, entry("p.a", 5), entry("p.new", 6)]
    picture = Picture([entry("p.a", 1), CAUGHT_UP, LOST], again)
    seen = []
    again.insert(2, lambda: seen.append(dict(picture.revisions)))
    await picture.follow_to_the_end()
    assert seen == [{"p.a": 5, "p.new": 6}]


async def test_a_second_end_of_replay_deletes_nothing():
    picture = Picture([entry("p.a", 1), CAUGHT_UP, CAUGHT_UP])
    await picture.follow_to_the_end()
    assert picture.told == ["p.a@1", "caught up", "caught up"]


async def test_the_pause_doubles_up_to_its_maximum_and_begins_anew_with_the_first_event():
    picture = Picture(*[UNAVAILABLE] * 8, [CAUGHT_UP, LOST], LOST)
    await picture.follow_to_the_end()
    assert picture.pauses_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]


async def test_it_is_replaying_from_the_opening_until_it_has_caught_up():
    def look():
        seen.append(picture.follower.is_replaying)

    seen = []
    picture = Picture([look, entry("p.a", 1), look, CAUGHT_UP, look, LOST], [look, LOST])
    look()
    await picture.follow_to_the_end()
    look()
    assert seen == [False, True, True, False, True, False]


async def test_it_is_ready_when_the_room_has_done_what_it_does_at_the_end_of_a_replay():
    at_work, may_end = asyncio.Event(), asyncio.Event()

    async def caught_up():
        at_work.set()
        await may_end.wait()

    follower = PrefixFollower(
        ScriptedWatches([CAUGHT_UP]),
        "p",
        known=dict,
        entry=lambda _: None,
        deleted=lambda _: None,
        caught_up=caught_up,
    )
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(follower.run())
        ready = group.create_task(follower.wait_ready())
        await at_work.wait()
        assert not ready.done()
        may_end.set()
        await ready
        duty.cancel()
