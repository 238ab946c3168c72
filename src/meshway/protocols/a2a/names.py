"""Names two parsers could read differently: what the hub checked must be what the agent reads.

Agents get the client's own bytes. Of a name given twice they may take the other one, and some (Go's, by default) do not
care about upper and lower case. Such requests are refused where the hub routes by the name.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import REST_0_3, Dialect
from meshway.protocols.a2a.params_check import MessageHead, SendParams, TaskParams
from meshway.protocols.jsonrpc import EnvelopeInvalid, has_unique_names

__all__ = ["check_envelope_names", "check_names", "check_query_names", "is_suspicious"]

_NONE = msgspec.Raw(b"")
# The names under which a message refers to a task, in lower case.
_TASK_NAMES = re.compile(rb'task_?id"').findall
# Letters that count as another's upper case (long s, Kelvin sign), and escapes of letters that names are made of.
_DISGUISED = re.compile(rb"\\u(?:00|017[fF]|212[aA])|\xc5\xbf|\xe2\x84\xaa").search
_BY_CHANCE = "holds the same name twice; which one counts would be left to chance"

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Layers(msgspec.Struct):
    message: msgspec.Raw = _NONE
    request: msgspec.Raw = _NONE
    configuration: msgspec.Raw = _NONE


_decode_layers = msgspec.json.Decoder(_Layers).decode


def _folded(name: str) -> str:
    return name.replace("_", "").casefold()


def _spellings(names: Iterable[str]) -> dict[str, list[str]]:
    """The names the hub reads, by what they come to without case and underscores."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(_folded(name), []).append(name)
    return spellings


_IN_ENVELOPE = _spellings(("jsonrpc", "id", "method", "params"))
_IN_MESSAGE = _spellings(MessageHead.__struct_fields__)
_IN_SEND = _spellings(SendParams.__struct_fields__)
_IN_TASK_PARAMS = _spellings(TaskParams.__struct_fields__)
_IDS_IN_QUERY = _spellings(("id", "taskId", "configId", "pushNotificationConfigId", "name", "parent"))
_SENDING = frozenset({AgentOperation.SEND_MESSAGE, AgentOperation.STREAM_MESSAGE})


def is_suspicious(params: bytes, task_id: str | None) -> bool:
    """A quick look: False means that nothing in these params can name another task than the one that was read.

    A name may be given twice, in snake_case, in other letters, or with an escaped one.
    """
    names = _TASK_NAMES(params.lower())
    if names and (len(names) > 1 or task_id is None or b'taskId"' not in params):
        return True
    return (b"\\" in params or not params.isascii()) and _DISGUISED(params) is not None


def check_names(params: bytes, operation: AgentOperation, dialect: Dialect) -> None:
    """Look at the objects the hub reads in `params`, which were decoded before. Raises: InvalidRequest."""
    if not params:
        return
    sends = operation in _SENDING
    _check_object("params", params, _IN_SEND if sends else _IN_TASK_PARAMS)
    layers = _decode_layers(params)
    is_request = dialect is REST_0_3 and bytes(layers.request)
    _check_object(
        "request" if is_request else "message", bytes(layers.request if is_request else layers.message), _IN_MESSAGE
    )
    _check_object("configuration", bytes(layers.configuration), {})


def check_envelope_names(body: bytes) -> None:
    """Look at a JSON-RPC request, decoded before. Raises: EnvelopeInvalid."""
    if not has_unique_names(body):
        raise EnvelopeInvalid(f"the request {_BY_CHANCE}")
    disguised = _disguised(_decode_fields(body), _IN_ENVELOPE)
    if disguised is not None:
        raise EnvelopeInvalid(f"{disguised.field} {disguised.message}")


def check_query_names(query: Iterable[tuple[str, str]], task_id: str | None, config_id: str | None) -> None:
    """A query may repeat the ids of its path, not contradict them. Raises: InvalidRequest."""
    task = f"tasks/{task_id}"
    said = {"", task_id, config_id, task, f"{task}/pushNotificationConfigs/{config_id}"}
    for name, value in query:
        if _folded(name) in _IDS_IN_QUERY and value not in said:
            fault = FieldError(name, "does not match the path")
            raise InvalidRequest(f"{name} of the query does not match the path", fields=[fault])


def _check_object(what: str, raw: bytes, known: Mapping[str, list[str]]) -> None:
    if not raw.startswith(b"{") and what != "params":
        return
    if not has_unique_names(raw):
        raise InvalidRequest(f"{what} {_BY_CHANCE}", fields=[FieldError(what, "must not hold a name twice")])
    disguised = _disguised(_decode_fields(raw), known)
    if disguised is not None:
        field = f"{what}.{disguised.field}"
        raise InvalidRequest(
            f"invalid params: {field} {disguised.message}", fields=[FieldError(field, disguised.message)]
        )


def _disguised(names: Iterable[str], known: Mapping[str, list[str]]) -> FieldError | None:
    for name in names:
        meant = known.get(_folded(name))
        if meant is not None and name not in meant:
            return FieldError(name, f"would be read as {meant[0]} by some agents; write {meant[0]}")
    return None
