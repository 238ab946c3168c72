"""What the ports ask of JetStream, as raw requests: the API, publishes that are answered, and reads from a stream."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from meshway.engine.nats.api_answers import ApiAnswer, RawMessage, decode_answer
from meshway.engine.nats.failures import NO_MESSAGE_CODES, ApiError, Unanswered
from meshway.engine.nats.link import Answer, Ask, Link
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.wire import headers_of

__all__ = ["Ack", "JetStream", "Page", "Stored"]

# One batch of a direct get; the server ends one at 64 MiB by itself.
_BATCH_MAX = 1_000
_NO_MESSAGES = "404"
_END_OF_BATCH = "204"

# What changes nothing. Servers drop it while a leader is elected, so it is asked again before anybody gives up.
_QUESTIONS = ("INFO", "STREAM.INFO.", "STREAM.MSG.GET.", "CONSUMER.INFO.", "CONSUMER.NAMES.")
_AGAIN_MS = 1_000

_encode = msgspec.json.Encoder().encode


class Ack(NamedTuple):
    """A publish was stored; `duplicate`: an earlier one with its message id was."""

    seq: int
    duplicate: bool


class Stored(NamedTuple):
    """A message of a stream. `time_ms`: when the stream stored it, by its server's clock."""

    subject: str
    seq: int
    time_ms: int
    headers: Mapping[str, str]
    data: bytes


class Page(NamedTuple):
    """Messages in the order of the stream; `more`: how many match behind them.

    `up_to`: of a `multi_last`, the last sequence that the replica had when it answered; 0 where nothing matched.
    """

    messages: Sequence[Stored]
    more: int
    up_to: int = 0


class JetStream:
    """Stateless."""

    def __init__(self, link: Link, settings: NatsSettings) -> None:
        self.link = link
        self._api = "$JS.API." if settings.domain is None else f"$JS.{settings.domain}.API."

    async def api(self, verb: str, body: object = None, *, timeout_ms: int | None = None) -> ApiAnswer:
        """One call, such as `STREAM.INFO.name`. Raises: ApiError, Unanswered."""
        data = b"" if body is None else _encode(body)
        again_ms = _AGAIN_MS if verb.startswith(_QUESTIONS) else None
        return _api_answer(await self.link.ask(Ask(self._api + verb, data), timeout_ms=timeout_ms, again_ms=again_ms))

    async def api_all(
        self, calls: Sequence[tuple[str, object]], *, timeout_ms: int | None = None
    ) -> Sequence[ApiAnswer | ApiError | Unanswered]:
        """Many calls at once, each with its own outcome."""
        asks = [Ask(self._api + verb, b"" if body is None else _encode(body)) for verb, body in calls]
        again_ms = _AGAIN_MS if all(verb.startswith(_QUESTIONS) for verb, _ in calls) else None
        answers = await self.link.ask_all(asks, timeout_ms=timeout_ms, again_ms=again_ms)
        found: list[ApiAnswer | ApiError | Unanswered] = []
        for answer in answers:
            try:
                found.append(answer if isinstance(answer, Unanswered) else _api_answer(answer))
            except ApiError as error:
                found.append(error)
        return found

    async def forget_consumer(self, stream: str, consumer: str) -> None:
        """Have it deleted, without waiting. Raises: EngineUnavailable."""
        await self.link.publish(f"{self._api}CONSUMER.DELETE.{stream}.{consumer}")

    async def now_ms(self, stream: str) -> int:
        """The clock of the server that leads a stream. Raises: ApiError, Unanswered."""
        return _time_ms((await self.api(f"STREAM.INFO.{stream}")).ts)

    async def purge_soon(self, stream: str, subject: str) -> None:
        """Have what is under a subject dropped, without waiting. Raises: EngineUnavailable."""
        await self.link.publish(f"{self._api}STREAM.PURGE.{stream}", _encode({"filter": subject}))

    async def pull(self, stream: str, consumer: str, body: Mapping[str, object], *, reply: str) -> None:
        """Have a consumer send messages to `reply`. Raises: EngineUnavailable."""
        subject = f"{self._api}CONSUMER.MSG.NEXT.{stream}.{consumer}"
        await self.link.publish_with_reply(subject, _encode(body), reply=reply)

    async def publish(
        self, messages: Sequence[Ask], *, timeout_ms: int | None = None
    ) -> Sequence[Ack | ApiError | Unanswered]:
        """Each into the stream that has its subject, in this order; each with its own outcome."""
        found: list[Ack | ApiError | Unanswered] = []
        for answer in await self.link.ask_all(messages, timeout_ms=timeout_ms):
            if isinstance(answer, Unanswered):
                found.append(answer)
                continue
            try:
                said = _api_answer(answer)
                found.append(Ack(said.seq, said.duplicate))
            except ApiError as error:
                found.append(error)
        return found

    async def last_of(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject, as the leader of the stream has it. Raises: ApiError, Unanswered."""
        return await self._get(stream, {"last_by_subj": subject})

    async def last_of_each(
        self, stream: str, subjects: Sequence[str]
    ) -> Sequence[Stored | ApiError | Unanswered | None]:
        """The same for many subjects at once, each with its own outcome."""
        return await self.get_each(stream, [{"last_by_subj": subject} for subject in subjects])

    async def get_each(
        self, stream: str, wanted: Sequence[Mapping[str, object]]
    ) -> Sequence[Stored | ApiError | Unanswered | None]:
        """One message for each, as the leader has it: `last_by_subj`, `seq`, or `next_by_subj` from `seq` on."""
        answers = await self.api_all([(f"STREAM.MSG.GET.{stream}", body) for body in wanted])
        found: list[Stored | ApiError | Unanswered | None] = []
        for answer in answers:
            if isinstance(answer, ApiError):
                found.append(None if answer.code in NO_MESSAGE_CODES else answer)
            else:
                found.append(answer if isinstance(answer, Unanswered) else _stored(answer.message))
        return found

    async def read_each(self, stream: str, subjects: Sequence[str]) -> Sequence[Stored | ApiError | Unanswered | None]:
        """The last message of each subject by direct get, which any replica answers; each with its own outcome."""
        asks = [Ask(f"{self._api}DIRECT.GET.{stream}.{subject}") for subject in subjects]
        return [
            answer if isinstance(answer, Unanswered) else _direct_or_status(answer)
            for answer in await self.link.ask_all(asks, again_ms=_AGAIN_MS)
        ]

    async def at(self, stream: str, seq: int) -> Stored | None:
        """The message with this sequence, as the leader has it. Raises: ApiError, Unanswered."""
        return await self._get(stream, {"seq": seq})

    async def _get(self, stream: str, body: Mapping[str, object]) -> Stored | None:
        try:
            said = (await self.api(f"STREAM.MSG.GET.{stream}", body)).message
        except ApiError as error:
            if error.code in NO_MESSAGE_CODES:
                return None
            raise
        return _stored(said)

    async def read(self, stream: str, body: Mapping[str, object], *, timeout_ms: int | None = None) -> Page:
        """A batch by direct get, which any replica answers: `next_by_subj`, `multi_last`, `start_time`, `batch`.

        Empty where nothing matches. Raises: ApiError, Unanswered.
        """
        messages: list[Stored] = []
        more = up_to = 0
        refused: ApiError | None = None

        def take(answer: Answer) -> bool:
            nonlocal more, up_to, refused
            headers = answer.headers
            status = headers.get("Status")
            if status is None:
                messages.append(_direct(answer))
                return False
            if status == _END_OF_BATCH:
                more = int(headers.get("Nats-Num-Pending", "0"))
                up_to = int(headers.get("Nats-UpTo-Sequence", "0"))
            elif status != _NO_MESSAGES:
                refused = ApiError(0, int(status), headers.get("Description", status))
            return True

        body = {"batch": _BATCH_MAX, **body}
        await self.link.collect(Ask(f"{self._api}DIRECT.GET.{stream}", _encode(body)), take, timeout_ms=timeout_ms)
        if refused is not None:
            raise refused
        return Page(messages, more, up_to)


def _api_answer(answer: Answer) -> ApiAnswer:
    said = decode_answer(answer.data)
    if said.error is not None:
        raise ApiError(said.error.err_code, said.error.code, said.error.description)
    return said


def _stored(said: RawMessage) -> Stored:
    return Stored(said.subject, said.seq, _time_ms(said.time), headers_of(said.hdrs), said.data)


def _direct_or_status(answer: Answer) -> Stored | ApiError | None:
    """None: no such message."""
    headers = answer.headers
    status = headers.get("Status")
    if status is None:
        return _direct(answer)
    return None if status == _NO_MESSAGES else ApiError(0, int(status), headers.get("Description", status))


def _direct(answer: Answer) -> Stored:
    headers = dict(answer.headers)
    subject, seq = headers.pop("Nats-Subject"), int(headers.pop("Nats-Sequence"))
    time_ms = _time_ms(headers.pop("Nats-Time-Stamp"))
    for name in ("Nats-Stream", "Nats-Num-Pending", "Nats-Last-Sequence", "Nats-UpTo-Sequence"):
        headers.pop(name, None)
    return Stored(subject, seq, time_ms, headers, answer.data)


def _time_ms(text: str) -> int:
    """RFC 3339 with nanoseconds, in epoch ms, rounded down."""
    head, _, rest = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{head}+00:00").timestamp()) * 1000 + int((rest[:3] or "0").ljust(3, "0"))
