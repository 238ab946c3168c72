"""What a NATS server, or JetStream on it, refuses a hub that starts, and what its operator can do about it."""

import ssl

from meshway.engine.nats.client import TlsNotOffered
from meshway.engine.nats.failures import ApiError, error_of
from meshway.engine.nats.settings import NatsSettings
from meshway.kernel.errors import EngineUnavailable, MeshwayError

__all__ = ["FINAL_CODES", "FORMING_CODES", "NO_CLUSTER", "refusal_of_connection", "refusal_of_streams"]

# Not enough servers, or one of them could not make its store: a cluster that is starting, or busy, can in a moment.
_NOT_ENOUGH_SERVERS = 10005
FORMING_CODES = frozenset({_NOT_ENOUGH_SERVERS, 10049})
# More than one replica on a server that is on its own.
NO_CLUSTER = 10074
_DENIED = ("authorization violation", "authentication expired", "authentication revoked")
_NOT_ENABLED = frozenset({10039, 10076})
_NO_ROOM = frozenset({10023, 10028, 10047})
_OVERLAPS = 10065
_NEEDS_LIMIT = 10113
# Some of them look as if nobody led at the moment; waiting does not mend them.
FINAL_CODES = _NOT_ENABLED | _NO_ROOM


def refusal_of_connection(error: Exception, settings: NatsSettings) -> str | None:
    """Why trying again does not help; None: it may."""
    if isinstance(error, TlsNotOffered):
        return (
            "the settings ask for TLS, and it offers none: give it a tls block, or leave out tls_ca_file and the others"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        known = "the system's authorities" if settings.tls_ca_file is None else settings.tls_ca_file
        return f"its certificate is not vouched for by {known} ({error.verify_message}): check tls_ca_file, and servers"
    text = str(error).lower()
    if isinstance(error, ssl.SSLError):
        if settings.tls_certificate_file is None and "certificate_required" in text.replace(" ", "_"):
            return "it asks for a certificate of the hub: set tls_certificate_file and tls_key_file"
        if "alert" in text:
            return f"it does not accept the hub's certificate ({error.reason}): check tls_certificate_file"
    if any(denied in text for denied in _DENIED):
        return f"it does not let us in ({str(error).removeprefix('nats: ')}): check {_ways_in(settings)}"
    return None


def refusal_of_streams(failure: ApiError, settings: NatsSettings, replicas: int) -> MeshwayError:
    """Why the streams cannot be made."""
    said = f"JetStream says: {failure.description}"
    if failure.code == _NOT_ENOUGH_SERVERS:
        text = f"The cluster has no place for {replicas} replicas: start as many servers, or set replicas lower. {said}"
    elif failure.code == NO_CLUSTER:
        text = f"replicas is {replicas}, and this server is on its own: set replicas to 1, or start a cluster. {said}"
    elif failure.code in _NOT_ENABLED:
        text = f"This account may not use JetStream: enable it for the account. {said}"
    elif failure.code in _NO_ROOM:
        bound = "none" if settings.stream_bytes_max is None else f"{settings.stream_bytes_max:,}"
        text = f"There is no room for the streams (stream_bytes_max: {bound}, each of four, times {replicas}). {said}"
    elif failure.code == _NEEDS_LIMIT:
        text = f"This account demands limits of its streams: set stream_bytes_max. {said}"
    elif failure.code == _OVERLAPS:
        text = f"Another stream of this account has subjects below {settings.prefix}: choose another prefix. {said}"
    else:
        return error_of(failure)
    return EngineUnavailable(text)


def _ways_in(settings: NatsSettings) -> str:
    for name in ("credentials_file", "nkey_seed_file", "user", "token"):
        if getattr(settings, name) is not None:
            return "user and password" if name == "user" else name
    return "credentials_file, nkey_seed_file, user and password, or token, of which none is set"
