"""This hub among the hubs of its mesh: who else is there, who does what is done once, and the one secret of all."""

import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from meshway import __version__
from meshway.assembly.duties import Duties
from meshway.coordination.duty_leases import DutyLeases
from meshway.coordination.hubs import HubRecord, MeshHubs
from meshway.coordination.settings import MeshSettings
from meshway.engine.ports import Engine, KvConflict, KvCreate, KvEntry, Undecided
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, FieldError, InvalidRequest
from meshway.kernel.ids import new_id

__all__ = ["KEY_ID_MARK", "Mesh", "agree_on_secret", "make_mesh"]

# Under this key stands which secret key the hubs of a mesh have.
KEY_ID_MARK = "mesh.secret"
_ROUNDS_MAX = 16


@dataclass(frozen=True, slots=True)
class Mesh:
    """`once` starts a duty that one hub of the mesh does at a time."""

    hubs: MeshHubs
    leases: DutyLeases
    duties: Duties

    def once(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        """See `DutyLeases.run`."""
        self.duties.start(name, partial(self.leases.run, name, duty))

    async def leave(self) -> None:
        """Others need not wait to take over. Raises nothing that matters: they would notice by themselves."""
        await self.leases.leave()
        await self.hubs.leave()


def make_mesh(engine: Engine, duties: Duties, *, url: str, group: str, clock: Clock, settings: MeshSettings) -> Mesh:
    """Joined at once; who else is there is known after `hubs.wait_ready`. `group`: who serves one port together."""
    me = HubRecord(
        id=new_id(),
        url=url,
        version=__version__,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at_ms=clock.now_ms(),
        group=group,
    )
    hubs = MeshHubs(engine.bus, me=me, clock=clock, settings=settings, is_shared=engine.is_shared)
    leases = DutyLeases(engine.key_value, hubs, clock)
    duties.start("mesh_hubs", hubs.run)
    duties.start("mesh_duties", leases.follow)
    return Mesh(hubs, leases, duties)


async def agree_on_secret(engine: Engine, key_id: str) -> None:
    """The first hub of a mesh says which secret key it has; others must have the same, or could not read what is kept.

    Raises: InvalidRequest naming `secret_key`, EngineUnavailable.
    """
    if not engine.is_shared:
        return
    for _ in range(_ROUNDS_MAX):
        (outcome,) = await engine.key_value.write([KvCreate(key=KEY_ID_MARK, value=key_id.encode())])
        match outcome:
            case Undecided():
                continue
            case KvConflict(current=KvEntry() as current) if current.value.decode("ascii", "replace") != key_id:
                text = (
                    f"the hubs of this mesh have secret key {current.value.decode('ascii', 'replace')}, this one has "
                    f"{key_id}: give it theirs, as MESHWAY_SECRET_KEY or as the file secret.key in its data directory"
                )
                raise InvalidRequest(f"secret_key: {text}", fields=[FieldError("secret_key", text)])
            case _:
                return
    raise EngineUnavailable("The store does not say whether this hub has the mesh's secret key; try again.")
