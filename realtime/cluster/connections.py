"""One connection to Redis, and a bounded pool of them.

Law: a command is sent at most once, on the connection that was handed out for it. A connection that was dropped raises
instead of connecting anew in the middle of what it is used for: a WATCH would be forgotten with it, unseen. No cancel
loses a place in the pool, or the turn of who waits for one. Whatever is dropped is aborted at once: a peer that takes no
bytes and one that never answers a TLS goodbye would hold the socket.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import redis.exceptions as errors
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.maint_notifications import MaintNotificationsConfig

from realtime.config import RedisConfig
from realtime.errors import ConfigError

PASSWORD_BYTES = 4096
CREDENTIAL = "credential:"  # what a password file of the service manager's begins with

Place = tuple[str, int]  # host, port


class Password(CredentialProvider):
    """User and password, read anew whenever they are asked for: so a rotated password needs no restart."""

    def __init__(self, username: str, file: str) -> None:
        self._username = username
        self._file = file

    def path(self) -> Path:
        """Return where the password is; raise `AuthenticationError` if there is no such place."""
        if not self._file.startswith(CREDENTIAL):
            return Path(self._file)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise errors.AuthenticationError("a systemd credential is named, but CREDENTIALS_DIRECTORY is not set")
        return Path(directory, self._file.removeprefix(CREDENTIAL))

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return (user, password), or (password,) of the default user; raise `AuthenticationError`."""
        password = ""
        if self._file:
            try:
                with self.path().open("rb") as file:
                    password = file.read(PASSWORD_BYTES + 1).decode().rstrip("\r\n")
            except OSError as error:
                # Nothing but a RedisError: what else is raised in a handshake would leave a connection that looks ready.
                raise errors.AuthenticationError(f"the password file cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise errors.AuthenticationError("the password file is not UTF-8") from None
            if not 0 < len(password) <= PASSWORD_BYTES:
                raise errors.AuthenticationError("the password file is empty or too long")
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return what `get_credentials` does."""
        return self.get_credentials()


class Tls:
    """What is shown to servers and trusted of them; read anew when one of the files has changed."""

    def __init__(self, config: RedisConfig) -> None:
        self._files = (config.ca_file, config.cert_file, config.key_file)
        self._checks_hostname = config.tls_hostname
        self._made_of: list[Any] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the present context; raise `ssl.SSLError`, also for a file that cannot be read."""
        try:
            files = [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in (os.stat(file) for file in self._files if file)]
            if self._context is None or files != self._made_of:
                ca_file, cert_file, key_file = self._files
                context = ssl.create_default_context(cafile=ca_file or None)
                context.check_hostname = self._checks_hostname
                if cert_file:
                    context.load_cert_chain(cert_file, key_file or None, password=_no_passphrase)
                self._context, self._made_of = context, files
        except ssl.SSLError:
            raise
        except OSError as error:
            raise ssl.SSLError(f"{error.filename or 'a certificate'}: {error.strerror}") from error
        return self._context


def _no_passphrase() -> str:
    """Answer for a terminal that nobody sits at: without this, OpenSSL would ask it and block the process."""
    raise ssl.SSLError("the private key is encrypted, and there is nobody to ask")


class _Strict(AbstractConnection):
    """What is different from redis-py's connections, whatever they run over."""

    def __init__(self, *, must_be_master: bool = False, **kwargs: Any) -> None:
        self._must_be_master = must_be_master
        super().__init__(**kwargs)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Shake hands; refuse what has meanwhile become a replica."""
        await super().on_connect_check_health(check_health=check_health)
        if self._must_be_master:
            await self.send_command("ROLE", check_health=False)
            answer = await self.read_response()
            if answer[0] != b"master":
                raise errors.ReadOnlyError("the server is a replica")

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send; raise `ConnectionError` if the connection is gone.

        Not redis-py's own, which connects anew unseen, and whose `wait_for` starts a task for each command, which before
        Python 3.12 may swallow a cancel.
        """
        writer = self._writer
        if writer is None:
            raise errors.ConnectionError("the connection was dropped")
        try:
            async with asyncio.timeout(self.socket_timeout):
                writer.writelines(_chunks(command))
                await writer.drain()
        except TimeoutError as error:
            self.abort()
            raise errors.TimeoutError("the server takes no bytes") from error
        except OSError as error:
            self.abort()
            raise errors.ConnectionError("the connection was lost while writing") from error
        except BaseException:  # half a command may have been sent
            self.abort()
            raise

    async def disconnect(
        self, nowait: bool = False, error: Exception | None = None, failure_count: int | None = None, health_check_failed: bool = False
    ) -> None:
        """Drop the connection. Nothing is waited for: what was not answered may have happened or not in any case."""
        self.abort()
        await super().disconnect(nowait=True, error=error, failure_count=failure_count, health_check_failed=health_check_failed)

    def abort(self) -> None:
        """Drop the connection now. Who waits for an answer on it gets a `ConnectionError`."""
        writer = self._writer
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]
        self._reader = self._writer = None
        if writer is not None:
            writer.transport.abort()


def _chunks(command: bytes | str | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(command, str):
        command = command.encode()
    return (command,) if isinstance(command, bytes) else command


class TcpConnection(_Strict, Connection):
    """Over TCP, with TLS or without. `find`, if there is one, says at each connect where to."""

    def __init__(self, *, find: Callable[[], Awaitable[Place]] | None = None, tls: Tls | None = None, **kwargs: Any) -> None:
        self._find = find
        self._tls = tls
        super().__init__(**kwargs)

    async def _connect(self) -> None:
        if self._find is not None:
            self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"host": self.host, "port": self.port}
        if self._tls is not None:
            arguments["ssl"] = self._tls.context()
        return arguments


class UnixConnection(_Strict, UnixDomainSocketConnection):
    """Over a unix socket."""

    async def _connect(self) -> None:
        # Not redis-py's own, which shakes hands here and is then made to do so again.
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await asyncio.open_unix_connection(self.path)


class Pool(ConnectionPool):
    """At most so many connections to one server; who wants one more waits, for as long as a command may take.

    Not redis-py's BlockingConnectionPool: in that one a cancel of who is next in turn leaves those behind without a turn,
    with a connection free; and it cannot be closed for good while its connections are in use.
    """

    def __init__(self, connection_class: type[AbstractConnection], connections_max: int, wait_s: float, **kwargs: Any) -> None:
        super().__init__(
            connection_class=connection_class,
            max_connections=connections_max,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            retry=Retry(NoBackoff(), 0),  # a retry may do twice what was done already
            **kwargs,
        )
        self._wait_s = wait_s
        self._turns = asyncio.Semaphore(connections_max)
        self._is_closed = False

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Return a connection that is ready; raise `RedisError`."""
        if self._turns.locked():
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._turns.acquire()
            except TimeoutError as error:
                raise errors.TimeoutError(f"all {self.max_connections} connections are in use") from error
        else:
            await self._turns.acquire()
        connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            self._refuse_if_closed()
            await self.ensure_connection(connection)
            self._refuse_if_closed()  # it may have been, while this one connected
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back."""
        self._take_back(connection)

    def _take_back(self, connection: Any) -> None:
        self._in_use_connections.remove(connection)
        if self._is_closed:
            connection.abort()
        self._available_connections.append(connection)
        self._turns.release()

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise errors.ConnectionError("the link was reset")

    def close_nowait(self) -> None:
        """Drop all connections, also those in use, and hand out none any more."""
        self._is_closed = True
        connections: list[Any] = [*self._available_connections, *self._in_use_connections]
        for connection in connections:
            connection.abort()

    @property
    def sizes(self) -> tuple[int, int]:
        """How many connections are idle and in use, connected or not."""
        return len(self._available_connections), len(self._in_use_connections)


class _Pipeline(Pipeline):
    """Raises what happened: of a connection that breaks behind a WATCH redis-py says WatchError, as if nothing had been done."""

    async def _disconnect_raise_on_watching(self, conn: Any, error: Exception, *_: Any, **__: Any) -> None:
        await conn.disconnect(error=error)

    async def _disconnect_reset_raise_on_watching(self, conn: Any, error: Exception, *_: Any, **__: Any) -> None:
        await conn.disconnect(error=error)  # what is asked between WATCH and MULTI fails by this way


class Client(Redis):
    """The commands of one pool's connections. A WatchError of it means that EXEC was answered and has done nothing."""

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline; with `transaction` its commands are between MULTI and EXEC."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def parse_place(text: str, port: int) -> Place:
    """Return host and port of `host[:port]`, an IPv6 address in brackets; raise `ConfigError`."""
    host, colon, number = text.rpartition(":") if not text.endswith("]") and ":" in text else (text, "", "")
    if colon:
        port = int(number)
    if not 0 < port < 65536:
        raise ConfigError(f"redis: {text}: a port from 1 to 65,535 is expected")
    return host.strip("[]"), port
