"""The client library's connection, where what it does costs too much, or ends the connection for good."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from meshway.engine.nats.credentials import CredentialsError, UserKey, read_credentials, read_nkey_seed
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.wire import Incoming, IncomingParser, headers_of

__all__ = ["LACKS_PERMISSION", "NatsClient", "TlsNotOffered"]

# What a server says of a subject that a user may not use; the connection stays.
LACKS_PERMISSION = "permissions violation"
_QUOTE = "'"
_LINE_END = b"\r\n"
_CLOSE_S = 0.5
# After a try to connect that failed as none should.
_AGAIN_S = 0.2


class TlsNotOffered(nats.errors.Error):
    """The settings ask for TLS, the server does not: nothing, least of all a password, is sent in clear."""


class _Identity(NamedTuple):
    """Who we say we are. `jwt`: None for a bare key."""

    key: UserKey
    jwt: str | None


class NatsClient(Client):
    """One connection, made again for as long as it takes."""

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__()
        self._ps = self._parser = IncomingParser(self)
        self._needs_tls = settings.wants_tls
        self._next: Srv | None = None
        self._left: Srv | None = None
        self._left_until = 0.0
        self._read_identity = _identity_reader(settings)

    def signer(self) -> Callable[[str], bytes] | None:
        """What the library signs with. Raises: CredentialsError, so that a wrong file is known before all tries."""
        if self._read_identity is None:
            return None
        self._read_identity()
        return self._sign

    def _sign(self, nonce: str) -> bytes:
        """Called for each connection: files that were renewed meanwhile are in force."""
        assert self._read_identity is not None
        try:
            identity = self._read_identity()
        except CredentialsError as error:
            raise nats.errors.Error(f"nats: {error}") from error
        if identity.jwt is None:
            self._public_nkey = identity.key.public
        else:
            jwt = identity.jwt.encode()
            self._user_jwt_cb = lambda: jwt
        return base64.b64encode(identity.key.sign(nonce.encode()))

    @property
    def other_servers(self) -> Sequence[Srv]:
        """Of the settings, and those that servers told of, without the one that it is connected to."""
        return [server for server in self._server_pool if server is not self._current_server]

    async def go_to(self, server: Srv, *, avoid_s: float) -> None:
        """Break the connection, make the next one to `server`; the one that is left is the last choice for so long."""
        self._next, self._left = server, self._current_server
        self._left_until = asyncio.get_running_loop().time() + avoid_s
        await self.force_reconnect()

    async def _select_next_server(self) -> None:
        """The library takes the first of its list, and puts it last."""
        left = self._left if asyncio.get_running_loop().time() < self._left_until else None
        chosen, self._next = self._next, None
        self._server_pool.sort(key=lambda server: (server is left, server is not chosen))
        await super()._select_next_server()

    async def _connect_to_server(self, s: Srv) -> None:
        """The library leaves what a try began that failed late: its tasks would read from the next connection."""
        self._end_tasks()
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call] # the library leaves it so
        self._parser.reset()
        if self._transport is None and s.uri.scheme in ("nats", "tls"):
            self._transport = _Transport()  # type: ignore[no-untyped-call] # the library leaves it so
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        if self._needs_tls and not self._server_info.get("tls_required"):
            raise TlsNotOffered("nats: the server does not ask for TLS")
        return super()._connect_command()

    async def _process_connect_init(self) -> None:
        """The library takes a connection that ended in the handshake for one that was made."""
        await super()._process_connect_init()
        if not self.is_connected:
            self._end_tasks()
            raise nats.errors.Error("nats: the server closed the connection while it was made")

    async def _attempt_reconnect(self) -> None:
        """Whatever ends it: without it there is no connection again."""
        while not self.is_closed:
            try:
                await super()._attempt_reconnect()
            except Exception as error:  # noqa: BLE001  the library knows some of them, and gives up on others
                await self._error_cb(error)
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def _end_tasks(self) -> None:
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()

    async def _read_loop(self) -> None:
        """Whatever ended the reading: without it there is no connection."""
        await super()._read_loop()
        if self.is_connected:
            await self._lose(nats.errors.Error("nats: the reading ended"))

    async def _process_err(self, err_msg: str) -> None:
        """The library would never connect again, where credentials were renewed or a limit is not reached any more."""
        error = nats.errors.Error(f"nats: {err_msg.strip().strip(_QUOTE)}")
        if LACKS_PERMISSION in err_msg.lower():
            await self._error_cb(error)
        else:
            await self._lose(error)

    async def _lose(self, error: Exception) -> None:
        await self._error_cb(error)
        await self._process_op_err(error)

    async def _process_pong(self) -> None:
        """The answer to a flush that was cancelled meanwhile; the library would stop reading."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def hear(self, subject: str, heard: Callable[[Incoming], None], *, group: str = "") -> Subscription:
        """`heard` is called as each message is read. It must not block."""
        # The number that the library gives next: a message may come before it says so.
        number = b"%d" % (self._sid + 1)
        self._parser.direct[number] = heard
        try:
            # The future is for the library only: with one it makes no task.
            return await self.subscribe(subject, queue=group, future=asyncio.get_running_loop().create_future())
        except BaseException:
            self._parser.direct.pop(number, None)
            raise

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._parser.direct.pop(b"%d" % sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """The library looks at every character of a header's name, which is half of what reading a message costs."""
        return headers_of(headers) if headers else None

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: Mapping[str, str] | None
    ) -> None:
        """The library matches every header against expressions; ours are known to be in order."""
        self.post(subject, reply, payload, headers)

    def post(self, subject: str, reply: str, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Have it written soon, with whatever else is posted in this turn of the loop. It must be connected."""
        assert self._flush_queue is not None
        if headers is None:
            command = f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + _LINE_END
        else:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            block = f"NATS/1.0\r\n{lines}\r\n".encode()
            first = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n"
            command = first.encode() + block + payload + _LINE_END
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())


class _Transport(TcpTransport):
    """One that is closed within a bound: after a failed handshake, or with a frozen server, TLS would wait on."""

    def __bool__(self) -> bool:
        """The library replaces one that was never connected."""
        return True

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await super().wait_closed()  # type: ignore[no-untyped-call] # the library leaves it so
        except TimeoutError:
            if self._io_writer is not None:
                self._io_writer.transport.abort()


def _identity_reader(settings: NatsSettings) -> Callable[[], _Identity] | None:
    if settings.credentials_file is not None:
        credentials = Path(settings.credentials_file)

        def read_both() -> _Identity:
            jwt, key = read_credentials(credentials)
            return _Identity(key, jwt)

        return read_both
    if settings.nkey_seed_file is not None:
        seed = Path(settings.nkey_seed_file)
        return lambda: _Identity(read_nkey_seed(seed), None)
    return None
