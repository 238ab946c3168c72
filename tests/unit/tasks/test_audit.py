"""What operators did, in order, in pages from either end."""

import pytest

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import InvalidRequest
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.pages import encode_cursor
from meshway.tasks.audit import AuditLog


@pytest.fixture
async def audit(tmp_path, clock):
    engine = await open_embedded_engine(tmp_path, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        yield AuditLog(engine.log, clock)
    finally:
        await engine.close()


async def written(audit, count):
    for number in range(count):
        await audit.append(PrincipalId("root"), "agent_stopped", agent_id=AgentId(f"a{number}"))


async def paged(read):
    found, cursor = [], None
    while True:
        page = await read(cursor=cursor, limit=2)
        assert 0 < len(page.items) <= 2
        found += [entry.agent for entry in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_an_entry_says_who_did_what_when(audit, clock):
    entry = await audit.append(
        PrincipalId("root"), "agent_stopped", agent_id=AgentId("echo"), details={"cancelled": 3, "reason": "spam"}
    )
    assert entry.at == rfc3339_ms(clock.now_ms())
    assert (await audit.newest()).items == [entry]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_pages_from_either_end_have_every_entry_once(audit, count):
    await written(audit, count)
    in_order = [f"a{number}" for number in range(count)]
    assert await paged(audit.oldest) == in_order
    assert await paged(audit.newest) == in_order[::-1]


async def test_entries_that_come_meanwhile_repeat_none(audit):
    await written(audit, 3)
    first = await audit.newest(limit=2)
    await written(audit, 2)
    second = await audit.newest(cursor=first.next_cursor, limit=2)
    assert [entry.agent for entry in (*first.items, *second.items)] == ["a2", "a1", "a0"]


async def test_nothing_happened_yet(audit):
    assert (await audit.newest()).items == []
    assert (await audit.oldest()).items == []


@pytest.mark.parametrize("cursor", ["?", encode_cursor("x"), encode_cursor("0"), encode_cursor("-1")])
async def test_a_cursor_that_is_none_is_refused(audit, cursor):
    for read in (audit.newest, audit.oldest):
        with pytest.raises(InvalidRequest, match="cursor"):
            await read(cursor=cursor)
