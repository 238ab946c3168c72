"""All hubs of a mesh have one secret key; one with another is told so before it reads or writes anything."""

from types import SimpleNamespace

import pytest

from meshway.assembly.mesh import KEY_ID_MARK, agree_on_secret
from meshway.kernel.errors import EngineUnavailable, InvalidRequest
from meshway.testing.fake_key_value import FakeKeyValue


class SharedEngine(SimpleNamespace):
    def __init__(self, *, is_shared=True):
        super().__init__(key_value=FakeKeyValue(), is_shared=is_shared)

    async def mark(self):
        (entry,) = await self.key_value.get([KEY_ID_MARK])
        return None if entry is None else entry.value


@pytest.fixture
def engine():
    return SharedEngine()


async def test_the_first_hub_says_which_key_it_is_and_the_others_have_the_same(engine):
    await agree_on_secret(engine, "k1")
    await agree_on_secret(engine, "k1")
    assert await engine.mark() == b"k1"


async def test_a_hub_with_another_key_is_told_what_to_do(engine):
    await agree_on_secret(engine, "k1")
    with pytest.raises(InvalidRequest, match="MESHWAY_SECRET_KEY") as refused:
        await agree_on_secret(engine, "k2")
    assert [each.field for each in refused.value.fields] == ["secret_key"]
    assert "k1" in refused.value.detail
    assert "secret.key" in refused.value.detail
    assert await engine.mark() == b"k1"


async def test_a_write_of_which_nobody_knows_is_asked_about_again(engine):
    engine.key_value.undecided = 3
    await agree_on_secret(engine, "k1")
    assert await engine.mark() == b"k1"
    engine.key_value.undecided = 1
    with pytest.raises(InvalidRequest):
        await agree_on_secret(engine, "k2")


async def test_a_store_that_never_says_is_given_up(engine):
    engine.key_value.undecided = 1_000
    with pytest.raises(EngineUnavailable):
        await agree_on_secret(engine, "k1")


async def test_a_hub_with_an_engine_of_its_own_has_nobody_to_agree_with():
    engine = SharedEngine(is_shared=False)
    await agree_on_secret(engine, "k1")
    await agree_on_secret(engine, "k2")
    assert engine.key_value.writes == []
