"""One scrape for all processes on one port: whoever is asked asks the others, over the bus, and adds up."""

import asyncio
import logging
import zlib
from collections.abc import Callable

from meshway.coordination.hubs import MeshHubs
from meshway.engine.ports import Bus, BusMessage, SubscriptionLost
from meshway.kernel.errors import EngineError
from meshway.observability.merged import merge_expositions

__all__ = ["WorkerMetrics"]

_log = logging.getLogger(__name__)

# A process that does not answer in it is left out of the scrape, which says so.
_ANSWER_WITHIN_MS = 1_000
_TAKE_MAX = 100
_REOPEN_S = 0.2
_COUNT = (
    b"# HELP meshway_worker_processes Processes of this hub whose figures are in here.\n"
    b"# TYPE meshway_worker_processes gauge\nmeshway_worker_processes %d.0\n"
)


class WorkerMetrics:
    """`run` is a duty of a hub that has siblings."""

    def __init__(self, render: Callable[[], tuple[bytes, str]], bus: Bus, hubs: MeshHubs) -> None:
        self._render = render
        self._bus = bus
        self._hubs = hubs

    async def render(self) -> tuple[bytes, str]:
        """Body and content type, of all processes on this port. Raises nothing: who does not answer is left out."""
        content, media_type = self._render()
        siblings = self._hubs.siblings()
        if not siblings:
            return content, media_type
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(hub_id)) for hub_id in siblings]
        texts = [content, *(text for each in asked if (text := each.result()) is not None)]
        return merge_expositions(texts) + _COUNT % len(texts), media_type

    async def run(self) -> None:
        """Answer the others, for ever."""
        while True:
            try:
                await self._answer()
            except (EngineError, SubscriptionLost) as error:
                _log.warning("metrics_not_shared", extra={"reason": str(error)})
            await asyncio.sleep(_REOPEN_S)

    async def _answer(self) -> None:
        async with self._bus.subscribe(_subject(self._hubs.me)) as questions:
            while True:
                for question in await questions.take(_TAKE_MAX):
                    if isinstance(question, BusMessage) and question.reply_to is not None:
                        data = zlib.compress(self._render()[0], 1)
                        await self._bus.publish([BusMessage(subject=question.reply_to, data=data)])

    async def _ask(self, hub_id: str) -> bytes | None:
        question = BusMessage(subject=_subject(hub_id), data=b"")
        try:
            answer = await self._bus.request(question, timeout_ms=_ANSWER_WITHIN_MS)
        except EngineError:
            return None
        return zlib.decompress(answer.data) if isinstance(answer, BusMessage) else None


def _subject(hub_id: str) -> str:
    return f"_mesh.metrics.{hub_id}"
