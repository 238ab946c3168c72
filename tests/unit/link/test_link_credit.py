"""Credit of one subscription, and how much it takes at a time."""

import asyncio

import pytest

from meshway.edges.link.limits import BATCH_BYTES_TARGET, BATCH_MAX, CREDIT_MAX
from meshway.edges.link.subscription import Subscription
from meshway.kernel.errors import InvalidRequest
from meshway.protocols.link.frames import Subscribe


class OpenSocket:
    """A socket whose client takes everything, or nothing until told."""

    def __init__(self) -> None:
        self.must_drain = False
        self.drained = asyncio.Event()

    async def drain(self) -> None:
        await self.drained.wait()
        self.must_drain = False


def subscription(credit: int = 0) -> Subscription:
    return Subscription(Subscribe(id="s", kind="events", channel="a", credit=credit))


async def test_no_credit_is_no_demand_until_some_is_granted() -> None:
    one = subscription()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        demand = group.create_task(one.demand(OpenSocket()))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not demand.done()
        one.grant(7)
        assert await demand == 7


async def test_no_demand_while_the_client_takes_nothing() -> None:
    one, socket = subscription(5), OpenSocket()
    socket.must_drain = True
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        demand = group.create_task(one.demand(socket))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not demand.done()
        socket.drained.set()
        assert await demand == 5


async def test_what_was_sent_is_spent() -> None:
    one = subscription(40)
    assert await one.demand(OpenSocket()) == 32
    one.spend(32, documents_bytes=320)
    assert await one.demand(OpenSocket()) == 8


async def test_batches_grow_with_small_messages_and_shrink_with_large_ones() -> None:
    one, socket = subscription(CREDIT_MAX), OpenSocket()
    sizes = []
    for _ in range(5):
        count = await one.demand(socket)
        sizes.append(count)
        one.spend(count, documents_bytes=count * 100)
    assert sizes == [32, 64, 128, 256, BATCH_MAX]
    one.spend(10, documents_bytes=10 * BATCH_BYTES_TARGET)
    assert await one.demand(socket) == 1
    one.spend(1, documents_bytes=10)
    assert await one.demand(socket) == 2


@pytest.mark.parametrize("granted", [0, -1, CREDIT_MAX + 1])
def test_a_grant_that_is_none_names_its_field_and_changes_nothing(granted: int) -> None:
    one = subscription(3)
    with pytest.raises(InvalidRequest) as refused:
        one.grant(granted)
    assert refused.value.fields[0].field == "messages"
    one.grant(CREDIT_MAX - 3)
    with pytest.raises(InvalidRequest):
        one.grant(1)
