"""What is kept in a mesh of the copy it was filled by: of what, how far it is, whether hubs may start."""

import msgspec

from meshway.engine.ports import KeyValue, KvPut, KvWritten
from meshway.engine.ports.copying import CopyKind, CopyPlace
from meshway.kernel.errors import EngineUnavailable

__all__ = ["CopyMark", "read_mark", "refuse_half_a_copy", "write_mark"]

_KEY = "engine.copy"


class CopyMark(msgspec.Struct, frozen=True, kw_only=True):
    """`places`: of kinds whose records may be written twice."""

    fingerprint: str
    is_done: bool = False
    places: dict[CopyKind, CopyPlace] = {}


async def read_mark(own_keys: KeyValue) -> CopyMark | None:
    """None: nothing was copied into this mesh. Raises: EngineUnavailable."""
    (found,) = await own_keys.get([_KEY])
    return None if found is None else msgspec.json.decode(found.value, type=CopyMark)


async def write_mark(own_keys: KeyValue, mark: CopyMark) -> bool:
    """False: undecided; write it again. Raises: StorageFull, EngineUnavailable."""
    (outcome,) = await own_keys.write([KvPut(key=_KEY, value=msgspec.json.encode(mark))])
    return isinstance(outcome, KvWritten)


async def refuse_half_a_copy(own_keys: KeyValue) -> None:
    """Raises: EngineUnavailable where a copy into this mesh has begun and is not finished."""
    mark = await read_mark(own_keys)
    if mark is not None and not mark.is_done:
        raise EngineUnavailable(
            "A copy into this NATS mesh is not finished: run the same `meshway engine copy` again until it says so"
        )
