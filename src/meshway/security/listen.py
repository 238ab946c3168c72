"""May the hub listen here? Open on loopback; anywhere else somebody has to have decided who may come in."""

from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.security.addresses import is_loopback_host

__all__ = ["check_listen_address"]


def check_listen_address(host: str, *, authenticated: bool, insecure: bool) -> None:
    """Refuse to open the hub to a network without authentication. `authenticated`: a key exists or `auth.required`.

    Raises: InvalidRequest naming `host`, with the ways out.
    """
    if authenticated or insecure or is_loopback_host(host):
        return
    shown = host or "every address"
    message = (
        f"refusing to listen on {shown} without authentication: anybody who reaches it could use and change every "
        "agent. Make a key first with `meshway keys create NAME --scope admin`, or listen on 127.0.0.1, or say "
        "--insecure where the network itself keeps strangers out."
    )
    raise InvalidRequest(f"host: {message}", fields=[FieldError("host", message)])
