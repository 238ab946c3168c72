"""The few streams that hold everything, and the subjects in them; made or brought up to date at each start.

`docs/internals/nats.md` has the reason for each setting. Names of the ports are dot-separated tokens of a small
alphabet, so they are parts of subjects as they are; where one name must not be taken for the beginning of another
(queues), it becomes one token.
"""

import logging
from collections.abc import Mapping, Sequence
from copy import copy

from meshway.engine.nats.failures import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, ApiError
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.settings import NatsSettings

__all__ = ["Layout", "ensure_stream", "one_token"]

_log = logging.getLogger(__name__)

_MS = 1_000_000
_UNLIMITED = -1
# Of one try; a cluster now and then makes a stream and does not say so.
_CHANGE_TIMEOUT_MS = 2_000


class Layout:
    """Names of streams, and the beginnings of subjects in them."""

    def __init__(self, settings: NatsSettings) -> None:
        prefix = settings.prefix
        name = prefix.upper()
        self.kv_stream, self.kv, self._own_kv = f"{name}_KV", f"{prefix}.kv.", f"{prefix}.own."
        self.log_stream, self.log = f"{name}_LOG", f"{prefix}.log."
        # In the stream of the log: where the numbers of a subject go on whose entries were all trimmed.
        self.log_end = f"{prefix}.logend."
        self.queue_stream, self.queue = f"{name}_QUEUE", f"{prefix}.q."
        self.blob_stream, self.blob = f"{name}_BLOB", f"{prefix}.b."
        self.bus, self.inbox = f"{prefix}.bus.", f"{prefix}.inbox."
        # In no stream: which lanes of a queue are in use.
        self.lane = f"{prefix}.lane."
        # In none either: which hub holds which messages.
        self.held = f"{prefix}.held"
        # Among the engine's own keys, and none: written to learn whether anything is.
        self.reached = f"{self._own_kv}~reached"

    @property
    def streams(self) -> Sequence[str]:
        """Names of all of them."""
        return self.kv_stream, self.log_stream, self.queue_stream, self.blob_stream

    def for_own_keys(self) -> "Layout":
        """The same, with the keys that the engine keeps for itself, which no user of KeyValue sees."""
        own = copy(self)
        own.kv = self._own_kv
        return own

    def configs(self, settings: NatsSettings, replicas: int) -> dict[str, Mapping[str, object]]:
        """Of all streams, by name."""
        common: dict[str, object] = {
            "storage": "file",
            "num_replicas": replicas,
            "discard": "new",
            "allow_direct": True,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "max_bytes": settings.stream_bytes_max or _UNLIMITED,
            "duplicate_window": settings.message_id_window_ms * _MS,
        }
        markers = {"subject_delete_marker_ttl": settings.marker_ttl_ms * _MS}
        configs: list[dict[str, object]] = [
            {
                **common,
                **markers,
                "name": self.kv_stream,
                "subjects": [f"{self.kv}>", f"{self._own_kv}>"],
                "retention": "limits",
                "max_msgs_per_subject": 1,
            },
            {
                **common,
                "name": self.log_stream,
                "subjects": [self.log + ">", self.log_end + ">"],
                "retention": "limits",
                "allow_atomic": True,
            },
            {
                **common,
                "name": self.queue_stream,
                "subjects": [f"{self.queue}>"],
                "retention": "workqueue",
                "allow_atomic": True,
                "allow_msg_schedules": True,
            },
            {
                **common,
                "name": self.blob_stream,
                "subjects": [self.blob + ">"],
                "retention": "limits",
                "max_msgs_per_subject": 1,
            },
        ]
        return {str(config["name"]): config for config in configs}


async def ensure_stream(jetstream: JetStream, config: Mapping[str, object], *, now_ms: int) -> None:
    """Make it where it is missing, change what differs. Idempotent, and safe when many hubs start at once.

    A new stream's sequences are microseconds of the clock at first, so that one that is made again begins behind all
    that its predecessor ever gave: positions and revisions of before are old, never wrong.

    Raises: ApiError, Unanswered.
    """
    name = config["name"]
    while True:
        try:
            present = (await jetstream.api(f"STREAM.INFO.{name}")).config
            break
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
        try:
            await jetstream.api(
                f"STREAM.CREATE.{name}", {**config, "first_seq": now_ms * 1_000}, timeout_ms=_CHANGE_TIMEOUT_MS
            )
        except ApiError as refused:
            if refused.code != STREAM_NAME_IN_USE:
                raise
            # Another hub was faster, perhaps with other settings: the last one to start decides.
            continue
        return
    changed = {key: value for key, value in config.items() if present.get(key, _default_of(value)) != value}
    if changed:
        _log.info("nats_stream_updated", extra={"stream": name, "changed": sorted(changed)})
        await jetstream.api(f"STREAM.UPDATE.{name}", {**present, **changed}, timeout_ms=_CHANGE_TIMEOUT_MS)


def _default_of(value: object) -> object:
    """What the server leaves out of an answer."""
    return False if isinstance(value, bool) else None


def one_token(name: str) -> str:
    """A dotted name as one token of a subject: `=` begins an escape."""
    return name.replace("=", "=3D").replace(".", "=2E")
