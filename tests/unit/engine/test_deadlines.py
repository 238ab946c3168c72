"""Many waits behind one timer."""

import asyncio

from meshway.engine.embedded.deadlines import Deadlines


async def test_waits_end_in_their_order_and_never_early():
    loop = asyncio.get_running_loop()
    ended: list[tuple[str, float]] = []
    all_ended = asyncio.Event()

    def expired(name: str) -> None:
        ended.append((name, loop.time()))
        if len(ended) == 3:
            all_ended.set()

    deadlines: Deadlines[str] = Deadlines(expired)
    ends = {"late": loop.time() + 0.12, "early": loop.time() + 0.03, "middle": loop.time() + 0.07}
    for name, until in ends.items():
        deadlines.add(name, until)
    async with asyncio.timeout(5):
        await all_ended.wait()
    assert [name for name, _at in ended] == ["early", "middle", "late"]
    # Timers of the loop count whole milliseconds.
    assert all(at >= ends[name] - 0.002 for name, at in ended)


async def test_who_no_longer_waits_is_not_told():
    loop = asyncio.get_running_loop()
    ended: list[str] = []
    last = asyncio.Event()

    def expired(name: str) -> None:
        ended.append(name)
        if name == "last":
            last.set()

    deadlines: Deadlines[str] = Deadlines(expired)
    keys = {name: deadlines.add(name, loop.time() + 0.02) for name in ("gone", "stays")}
    deadlines.add("last", loop.time() + 0.06)
    deadlines.discard("gone", keys["gone"])
    deadlines.discard("gone", keys["gone"])
    async with asyncio.timeout(5):
        await last.wait()
    assert ended == ["stays", "last"]


async def test_a_wait_that_begins_in_the_answer_to_another_is_kept():
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def expired(name: str) -> None:
        if name == "first":
            deadlines.add("second", loop.time() + 0.02)
        else:
            done.set()

    deadlines: Deadlines[str] = Deadlines(expired)
    deadlines.add("first", loop.time() + 0.02)
    async with asyncio.timeout(5):
        await done.wait()


async def test_after_closing_nobody_is_told():
    deadlines: Deadlines[str] = Deadlines(lambda _name: None)
    deadlines.add("never", asyncio.get_running_loop().time() + 0.01)
    deadlines.close()
    deadlines.discard("never", 1)
