"""The settings: frozen Structs, one a section.

Law: a default is written here and nowhere else; `config.toml` and docs/configuration.md repeat what stands here and
a test holds them equal. Every setting carries its reason, its range, and its unit as the last word of its name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field


def _why(text: str) -> Meta:
    return Meta(description=text)


Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=10**9)]  # fits the C int of a socket option
CountOrNone = Annotated[int, Meta(ge=0, le=10**9)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Timeout = Annotated[float, Meta(ge=0.05, le=600)]
Patience = Annotated[float, Meta(ge=0, le=3600)]
Milliseconds = Annotated[float, Meta(ge=0, le=60_000)]
Rate = Annotated[float, Meta(gt=0, le=1e9)]
# A title says in an error and in the reference what its pattern says to a machine.
Origin = Annotated[str, Meta(pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\s]+\Z", title="http(s)://host[:port]")]
HostName = Annotated[str, Meta(pattern=r"^[^/?#@\s]+\Z", title="host[:port]")]
Principal = Annotated[str, Meta(pattern=r"^(public|user:.+|group:.+)\Z", title="public, user:ID or group:NAME")]
Address = Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^/?#@\s:\[\]]+)(:[0-9]{1,5})?\Z", title="host[:port]")]
# No user and no password can be written in it, so that it may be printed and logged.
RedisUrl = Annotated[
    str,
    Meta(
        pattern=r"^(|rediss?://(\[[0-9A-Fa-f:.]+\]|[^/?#@\s:\[\]]+)(:[0-9]{1,5})?(/[0-9]{0,4})?|unix://(/[^?#@\s]+)(\?db=[0-9]{1,4})?)\Z",
        title="redis://host:port/db, rediss:// or unix:///path?db=N, without user and password",
    ),
]
# The braces of a key are a cluster's hash tag, so a prefix has none.
KeyPrefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}\Z", title="1 to 64 letters, digits and any of _ . : -")]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The public port: WebSockets, the client module, the health check."""

    host: Annotated[str, _why("Address the public port binds. Beyond loopback, identity.anonymous decides who gets in.")] = "127.0.0.1"
    port: Annotated[Port, _why("Public port; 0 picks a free one.")] = 8765
    origins: Annotated[list[Origin], _why("Origins whose pages may connect besides the server's own.")] = field(default_factory=list)
    console: Annotated[
        Literal["loopback", "always", "never"],
        _why("Who is shown the console at GET /: nobody, everybody, or everybody while only loopback is bound."),
    ] = "loopback"
    drain_s: Annotated[Patience, _why("At SIGTERM, how long clients are given to leave before they are closed.")] = 5.0
    backlog: Annotated[Count, _why("Connections that wait for accept; a reconnect storm fills it.")] = 4096
    workers: Annotated[
        int, Meta(ge=1, le=64), _why("Processes of `realtime serve` that share the public port; a library is always one.")
    ] = 1


class HttpConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The API port: publishing, looking things up, metrics. It has no authentication of its own."""

    enabled: Annotated[bool, _why("Whether the API port is opened at all.")] = True
    host: Annotated[str, _why("Address the API binds. Whoever reaches it may publish and see everything.")] = "127.0.0.1"
    port: Annotated[Port, _why("API port; 0 picks a free one.")] = 8766
    hosts: Annotated[list[HostName], _why("Host header values accepted besides the bound address, localhost and loopback addresses.")] = (
        field(default_factory=list)
    )
    origins: Annotated[list[Origin], _why("Origins whose pages may call the API; its own is always allowed.")] = field(default_factory=list)
    body_bytes: Annotated[Count, _why("Longest JSON body of POST /v1/updates.")] = 4 * 1024 * 1024
    ndjson_bytes: Annotated[Count, _why("Longest NDJSON body; it is applied as it streams in.")] = 64 * 1024 * 1024
    body_timeout_s: Annotated[Seconds, _why("How long a body may pause between two pieces before 408.")] = 10.0
    requests: Annotated[Count, _why("Requests served at once; more get 503.")] = 256


class LimitsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Every bound of the protocol. What lies beyond each is in docs/protocol.md."""

    message_bytes_before_identify: Annotated[
        Count, _why("Longest message of a connection that has not identified itself; it is owed little.")
    ] = 16 * 1024
    message_bytes: Annotated[Count, _why("Longest message of an identified connection; room for `have` and `publish`.")] = 256 * 1024
    fragments: Annotated[Count, _why("Fragments of one message; bounds the objects, not only the bytes.")] = 16
    have_entities: Annotated[Count, _why("Entities a client may name in `have`.")] = 4000
    entity_bytes: Annotated[Count, _why("Longest entity: its geometry and properties in canonical JSON.")] = 16 * 1024
    entity_properties: Annotated[Count, _why("Properties of one entity.")] = 64
    entity_positions: Annotated[Count, _why("Positions in one geometry.")] = 4096
    filter_bytes: Annotated[int, Meta(ge=1, le=4 * 1024 * 1024), _why("Longest filter, as JSON.")] = 8 * 1024
    filter_levels: Annotated[Count, _why("Deepest nesting of a filter.")] = 16
    filter_nodes: Annotated[int, Meta(ge=1, le=65_536), _why("Expressions and literals in one filter; each change pays for them.")] = 256
    entities_per_view: Annotated[Count, _why("What one view shows before it is sampled; bounds a session's memory.")] = 10_000
    ids_per_view: Annotated[Count, _why("Entities that a view may follow by name.")] = 100
    flush_interval_ms: Annotated[Milliseconds, _why("Spacing of a session's frames; changes in between are conflated.")] = 50.0
    frame_bytes: Annotated[Count, _why("Size at which a delta is cut and continued in the next (`more`).")] = 256 * 1024
    views_per_s: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)], _why("Views, refreshes and checks of each kind per session; the newest waits for its turn.")
    ] = 20.0
    messages_per_s: Annotated[Rate, _why("Inbound messages per session.")] = 50.0
    messages_burst: Annotated[Count, _why("Inbound messages that may come at once.")] = 100
    control_frames_per_s: Annotated[Rate, _why("Pings and pongs a client may send; beyond it 1008.")] = 10.0
    control_lane_bytes: Annotated[Count, _why("What may wait in a session's control lane; beyond it 4000.")] = 1024 * 1024
    send_buffer_bytes: Annotated[Count, _why("SO_SNDBUF of each connection; what is in it can no longer be conflated.")] = 128 * 1024
    unsent_bytes: Annotated[Count, _why("TCP_NOTSENT_LOWAT of each connection.")] = 16 * 1024
    write_stall_s: Annotated[Seconds, _why("How long a socket may take no data before 4000.")] = 10.0
    handshake_timeout_s: Annotated[Seconds, _why("How long the HTTP upgrade may take.")] = 5.0
    identify_timeout_s: Annotated[Seconds, _why("How long the first message may take.")] = 5.0
    close_timeout_s: Annotated[Seconds, _why("How long the peer may take to answer a close before the socket is cut.")] = 2.0
    ping_interval_s: Annotated[Seconds, _why("Spacing of pings; keeps middleboxes from forgetting the connection.")] = 25.0
    pong_timeout_s: Annotated[Seconds, _why("How long a pong may take before 4001.")] = 10.0
    tombstone_s: Annotated[Seconds, _why("How long a death is remembered; also how long a client may be away and resume.")] = 3600.0
    tombstones_max: Annotated[Count, _why("Deaths remembered; beyond it the oldest are forgotten first.")] = 1_000_000
    connections: Annotated[CountOrNone, _why("Connections in all; 0: the limit of file descriptors less 200.")] = 0
    connections_half_open: Annotated[Count, _why("Connections whose upgrade is not finished.")] = 512
    connections_per_address: Annotated[Count, _why("Connections from one address; loopback is exempt.")] = 1000


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The core that matches changes with views."""

    kind: Annotated[
        Literal["auto", "native", "reference"],
        _why("Which engine runs: the native one, the plain Python one, or `auto`, the native one if it was built."),
    ] = "auto"


class PublishConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What publishers leave unsaid."""

    default_access: Annotated[
        list[Principal], _why("Principals of an entity that names none; whoever is none of them does not see it.")
    ] = field(default_factory=lambda: ["public"])


class TokenConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Who a token of `identity.tokens` is."""

    user: Name
    groups: list[Name] = field(default_factory=list)
    publish: list[str] = field(default_factory=list)  # id patterns, as bus-*


class IdentityConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Who connects."""

    anonymous: Annotated[
        Literal["loopback", "always", "never"],
        _why("Who may connect without a token: nobody, everybody, or everybody as long as the server binds loopback only."),
    ] = "loopback"
    tokens: Annotated[
        dict[Token, TokenConfig], _why("Fixed tokens for tests and trials: token -> {user, groups, publish (id patterns)}. Never printed.")
    ] = field(default_factory=dict)


class RedisConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Redis or Valkey, which joins the nodes and keeps the world. docs/redis.md says how to set it up."""

    url: Annotated[
        RedisUrl, _why("Where Redis is; empty: there is none. For `sentinel` and `cluster` the first sentinel or node that is asked.")
    ] = ""
    mode: Annotated[
        Literal["single", "sentinel", "cluster"],
        _why("What the address is: the one server, a sentinel that knows the master, or a node of a cluster."),
    ] = "single"
    sentinels: Annotated[list[Address], _why("Further sentinels; the majority of all decides who the master is.")] = field(
        default_factory=list
    )
    sentinel_name: Annotated[str, _why("Name by which the sentinels know the master.")] = "mymaster"
    sentinel_username: Annotated[str, _why("User of the sentinels themselves; empty: their default user.")] = ""
    sentinel_password_file: Annotated[
        str, _why("File with the sentinels' own password, as redis.password_file; empty: they want none.")
    ] = ""
    nodes: Annotated[list[Address], _why("Further nodes of a cluster, asked where the first does not answer.")] = field(
        default_factory=list
    )
    username: Annotated[str, _why("ACL user; empty: the default user.")] = ""
    password_file: Annotated[
        str, _why("File with the password, or credential:NAME for a systemd credential. Read anew at each connect; never printed.")
    ] = ""
    ca_file: Annotated[str, _why("Certificates of the authorities that rediss:// trusts; empty: those of the system.")] = ""
    cert_file: Annotated[str, _why("Client certificate for rediss://; empty: none is shown.")] = ""
    key_file: Annotated[str, _why("Private key of the client certificate; empty: it is in redis.cert_file.")] = ""
    tls_hostname: Annotated[bool, _why("Whether the name in the server's certificate has to be that of the address.")] = True
    prefix: Annotated[KeyPrefix, _why("What the name of every key begins with; worlds with different ones share a server.")] = "realtime"
    shards: Annotated[
        Annotated[int, Meta(ge=1, le=256)], _why("Slices of the world, each with a stream and a hash; all nodes need the same number.")
    ] = 8
    timeout_s: Annotated[Timeout, _why("How long a command may take before its connection is cut.")] = 2.0
    connect_timeout_s: Annotated[Timeout, _why("How long connecting may take, TLS included.")] = 2.0
    relay_interval_ms: Annotated[Milliseconds, _why("Spacing of what a node tells the others; changes in between are conflated.")] = 5.0
    patience_s: Annotated[Patience, _why("How long a start waits for Redis before the node serves without it, degraded.")] = 10.0
    retention_s: Annotated[Seconds, _why("How much of the streams is kept beyond what is stored; bounds the cut that needs no reload.")] = (
        60.0
    )
    store_interval_ms: Annotated[Milliseconds, _why("Spacing of what the streams' writers store; changes in between are conflated.")] = (
        2000.0
    )
    lease_s: Annotated[
        Annotated[float, Meta(ge=1, le=3600)], _why("How long a node number or a writer's place stays taken once its holder is gone.")
    ] = 10.0


class StoreConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One local file that keeps the world of a node without Redis."""

    path: Annotated[str, _why("The file; empty: nothing is kept.")] = ""
    interval_ms: Annotated[Milliseconds, _why("Spacing of what is written; what is younger is lost with the process.")] = 500.0


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it, by section."""

    server: ServerConfig = field(default_factory=ServerConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
