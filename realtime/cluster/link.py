"""How Redis is reached: from the settings to clients, whatever it is: one server, a master that sentinels know, a cluster.

Law: a client is asked for each time and never kept: after a `reset` those handed out before raise. A command that
fails has failed; nothing is tried again here, and what has to be found anew (the master, the slots) is found by `reset`
or by connecting. The bytes of a password are read when a connection is made and kept nowhere.

    link = Link(config.redis, node)
    await link.open()                       raises what is wrong (trouble.classify names it); may be called again
    link.client(shard).xadd(…)              commands; answered within timeout_s, or the connection is cut
    link.reader(shard).xread(…, block=BLOCK_MS)
    link.home(key).get(key)                 keys that have no shard; in a cluster each lies somewhere
    link.groups(), link.read_groups()       shards that one pipeline / one XREAD can serve
    await link.reset(generation)            after trouble: drop every connection, find the master or the slots anew
    await link.aclose()
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import redis.exceptions as errors
from redis.asyncio import Redis
from redis.crc import key_slot

from realtime.cluster.connections import Client, Password, Place, Pool, TcpConnection, Tls, UnixConnection, parse_place
from realtime.cluster.discovery import Slots, ask_cluster, ask_sentinels
from realtime.config import RedisConfig
from realtime.errors import ConfigError

BLOCK_MS = 1000  # how long a blocking read may wait for entries; that it is answered then is the reader's heartbeat
CONNECTIONS_MAX = 16  # for commands, to one server
PORT = 6379
SENTINEL_PORT = 26379


class _Server(NamedTuple):
    """The clients of one server."""

    commands: Redis
    reads: Redis
    pools: tuple[Pool, Pool]


class Link:
    """The way to Redis. See the top of the file."""

    def __init__(self, config: RedisConfig, node: str) -> None:
        """Check the settings, without any I/O; `node` is how this node is called in CLIENT LIST. Raises `ConfigError`."""
        self.generation = 0  # how often everything was dropped and found anew
        self._config = config
        self._name = "realtime:" + "".join(char if char.isalnum() or char in "-_.:" else "_" for char in node)
        self._unix, self._place, self._database, tls = _parse_url(config)
        self._tls = Tls(config) if tls else None
        self._password = _password(config.username, config.password_file)
        self._sentinels = list(dict.fromkeys([self._place, *(parse_place(text, SENTINEL_PORT) for text in config.sentinels)]))
        self._nodes = [self._place, *(parse_place(text, PORT) for text in config.nodes)]
        self._slots: Slots | None = None  # of a cluster, once one of its nodes has answered
        self._servers: dict[Place, _Server] = {}
        self._resetting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Link {self.address} {self._config.mode}>"

    @property
    def address(self) -> str:
        """Where Redis is, fit for a log."""
        return self._unix or f"{self._place[0]}:{self._place[1]}"

    @property
    def is_cluster(self) -> bool:
        """Whether the shards may lie on several servers."""
        return self._config.mode == "cluster"

    @property
    def connections(self) -> int:
        """How many connections there are, connected or not."""
        return sum(sum(pool.sizes) for server in self._servers.values() for pool in server.pools)

    # Clients

    def client(self, shard: int) -> Redis:
        """Return the client for commands on a shard's keys; raise `ConnectionError` while no cluster node has answered."""
        return self._server(f"{{{shard}}}").commands

    def reader(self, shard: int) -> Redis:
        """Return the client for blocking reads of a shard's stream: they have connections of their own.

        It waits BLOCK_MS longer for its answer than the others do; what is then still silent is a dead link: `TimeoutError`.
        """
        return self._server(f"{{{shard}}}").reads

    def home(self, key: str) -> Redis:
        """Return the client for commands on one key that has no shard. A transaction can have but one such key."""
        return self._server(key).commands

    def groups(self) -> list[list[int]]:
        """Return which shards share a server: one pipeline without MULTI can serve a group."""
        groups: dict[Place, list[int]] = {}
        for shard in range(self._config.shards):
            groups.setdefault(self._owner(f"{{{shard}}}"), []).append(shard)
        return list(groups.values())

    def read_groups(self) -> list[list[int]]:
        """Return which shards one XREAD can name: in a cluster, whose commands take keys of one slot only, each alone."""
        if self.is_cluster:
            return [[shard] for shard in range(self._config.shards)]
        return [list(range(self._config.shards))]

    # Opening, finding anew, closing

    async def open(self) -> None:
        """Find every server that a shard lies on, and have it answer; raise `RedisError`. May be called again."""
        if self.is_cluster and self._slots is None:
            await self.reset()
        for group in self.groups():
            await self.client(group[0]).ping()

    async def reset(self, generation: int | None = None) -> None:
        """Drop every connection, also those in use, and find the slots of a cluster anew; raise `RedisError` if none tells them.

        With a `generation` nothing happens unless it is the present one: of several who saw the same trouble, the
        first one resets.
        """
        async with self._resetting:
            if generation is not None and generation != self.generation:
                return
            self.generation += 1
            self._drop()
            if self.is_cluster:
                known = list(dict.fromkeys([*(self._slots.places if self._slots else ()), *self._nodes]))
                self._slots = await ask_cluster(known, self._make_probe)

    async def aclose(self) -> None:
        """Drop every connection. A closed link opens again when it is used."""
        self._drop()

    def _drop(self) -> None:
        servers, self._servers = self._servers, {}
        for server in servers.values():
            for pool in server.pools:
                pool.close_nowait()

    # Servers

    def _owner(self, key: str) -> Place:
        if not self.is_cluster:
            return self._place
        if self._slots is None:
            raise errors.ConnectionError("no node of the cluster has answered yet")
        return self._slots.owner(key_slot(key.encode()))

    def _server(self, key: str) -> _Server:
        place = self._owner(key)
        server = self._servers.get(place)
        if server is None:
            commands = self._make_pool(place, CONNECTIONS_MAX, self._config.timeout_s)
            # Readers that were cut off and come back meet nobody but themselves.
            reads = self._make_pool(place, self._config.shards + 1, self._config.timeout_s + BLOCK_MS / 1000)
            server = _Server(Client(connection_pool=commands), Client(connection_pool=reads), (commands, reads))
            self._servers[place] = server
        return server

    def _make_pool(self, place: Place, connections_max: int, timeout_s: float) -> Pool:
        is_sentinel = self._config.mode == "sentinel"
        options = self._options(self._password, self._database, timeout_s) | {"must_be_master": is_sentinel}
        if self._unix:
            return Pool(UnixConnection, connections_max, self._config.timeout_s, path=self._unix, **options)
        find = self._find_master if is_sentinel else None
        return Pool(
            TcpConnection, connections_max, self._config.timeout_s, host=place[0], port=place[1], find=find, tls=self._tls, **options
        )

    def _options(self, password: Password | None, database: int, timeout_s: float) -> dict[str, Any]:
        return {
            "client_name": self._name,
            "credential_provider": password,
            "db": database,
            "driver_info": None,  # CLIENT SETINFO would be one more command to be allowed
            "protocol": 2,  # nothing is pushed to a connection of RESP2, so nothing pushed can leak or be taken for an answer
            "socket_connect_timeout": self._config.connect_timeout_s,
            "socket_timeout": timeout_s,
        }

    # Who is asked the way

    def _make_probe(self, place: Place) -> Redis:
        """Return a client that asks a node of a cluster; the caller closes it."""
        return self._make_one(place, self._password)

    def _make_sentinel(self, place: Place) -> Redis:
        return self._make_one(place, _password(self._config.sentinel_username, self._config.sentinel_password_file))

    def _make_one(self, place: Place, password: Password | None) -> Redis:
        options = self._options(password, 0, self._config.timeout_s)
        pool = Pool(TcpConnection, 1, self._config.timeout_s, host=place[0], port=place[1], tls=self._tls, **options)
        return Client(connection_pool=pool)

    async def _find_master(self) -> Place:
        """Ask the sentinels, at each connect: a master that was replaced may be back at its old address."""
        return await ask_sentinels(self._sentinels, self._config.sentinel_name, self._make_sentinel)


def _password(username: str, file: str) -> Password | None:
    return Password(username, file) if username or file else None


def _parse_url(config: RedisConfig) -> tuple[str, Place, int, bool]:
    """Return the path of a unix socket or "", host and port, the database, and whether it is TLS; raise `ConfigError`."""
    url, mode = urlsplit(config.url), config.mode
    if not config.url:
        raise ConfigError("redis.url: an address is expected")
    if mode == "sentinel" and not config.sentinel_name:
        raise ConfigError("redis.sentinel_name: the sentinels' name of the master is expected")
    if url.scheme == "unix":
        if mode != "single":
            raise ConfigError(f"redis.url: a unix socket leads to one server, which redis.mode = {mode} is not")
        return url.path, ("", 0), int(parse_qs(url.query).get("db", ["0"])[0]), False
    database = int(url.path.strip("/") or 0)
    if mode == "cluster" and database:
        raise ConfigError("redis.url: a cluster has database 0 only")
    return "", parse_place(url.netloc, SENTINEL_PORT if mode == "sentinel" else PORT), database, url.scheme == "rediss"
