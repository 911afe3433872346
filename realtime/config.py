"""Settings: frozen Structs, one `load()`, passed down by part.

Law: a default is written here and nowhere else; `config.toml` and docs/configuration.md repeat what stands here and
a test holds them equal. Every field carries its reason, its unit as the last word of its name, and its range.
Precedence: defaults, file, environment (`REALTIME_SECTION__KEY`), `--set section.key=value`, flags.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from realtime.errors import ConfigError

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]


def _why(kind: Any, text: str) -> Any:
    return Annotated[kind, Meta(description=text)]


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The public port: WebSockets, the client module, the health check."""

    host: Annotated[str, Meta(description="Address the public port binds. Beyond loopback, identity.anonymous decides who gets in.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="Public port; 0 picks a free one.")] = 8765
    origins: Annotated[
        list[str], Meta(description="Origins, as scheme://host[:port], whose pages may connect besides the server's own.")
    ] = field(default_factory=list)
    drain_s: Annotated[
        Annotated[float, Meta(ge=0, le=3600)], Meta(description="At SIGTERM, how long clients are given to leave before they are closed.")
    ] = 5.0
    backlog: Annotated[Count, Meta(description="Connections that wait for accept; a reconnect storm fills it.")] = 4096


class HttpConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The API port: publishing, looking things up, metrics. It has no authentication of its own."""

    enabled: Annotated[bool, Meta(description="Whether the API port is opened at all.")] = True
    host: Annotated[str, Meta(description="Address the API binds. Whoever reaches it may publish and see everything.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="API port; 0 picks a free one.")] = 8766
    hosts: Annotated[
        list[str], Meta(description="Host header values accepted besides the bound address, localhost and loopback addresses.")
    ] = field(default_factory=list)
    origins: Annotated[list[str], Meta(description="Origins whose pages may call the API; its own is always allowed.")] = field(
        default_factory=list
    )
    body_bytes: Annotated[Count, Meta(description="Longest JSON body of POST /v1/updates.")] = 4 * 1024 * 1024
    ndjson_bytes: Annotated[Count, Meta(description="Longest NDJSON body; it is applied as it streams in.")] = 64 * 1024 * 1024
    body_timeout_s: Annotated[Seconds, Meta(description="How long a body may pause between two pieces before 408.")] = 10.0
    requests: Annotated[Count, Meta(description="Requests served at once; more get 503.")] = 256


class LimitsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Every bound of the protocol. What lies beyond each is in docs/protocol.md."""

    message_bytes_before_identify: Annotated[
        Count, Meta(description="Longest message of a connection that has not identified itself; it is owed little.")
    ] = 16 * 1024
    message_bytes: Annotated[Count, Meta(description="Longest message of an identified connection; room for `have` and `publish`.")] = (
        256 * 1024
    )
    fragments: Annotated[Count, Meta(description="Fragments of one message; bounds the objects, not only the bytes.")] = 16
    have_entities: Annotated[Count, Meta(description="Entities a client may name in `have`.")] = 4000
    entity_bytes: Annotated[Count, Meta(description="Longest entity, as its Feature in canonical JSON.")] = 16 * 1024
    entity_properties: Annotated[Count, Meta(description="Properties of one entity.")] = 64
    entity_positions: Annotated[Count, Meta(description="Positions in one geometry.")] = 4096
    filter_bytes: Annotated[Count, Meta(description="Longest filter, as JSON.")] = 8 * 1024
    filter_levels: Annotated[Count, Meta(description="Deepest nesting of a filter.")] = 16
    filter_nodes: Annotated[Count, Meta(description="Expressions and literals in one filter; each change pays for them.")] = 256
    entities_per_view: Annotated[Count, Meta(description="What one view shows before it is sampled; bounds a session's memory.")] = 10_000
    ids_per_view: Annotated[Count, Meta(description="Entities that a view may follow by name.")] = 100
    flush_interval_ms: Annotated[
        Annotated[float, Meta(ge=0, le=60_000)], Meta(description="Spacing of a session's frames; changes in between are conflated.")
    ] = 50.0
    frame_bytes: Annotated[Count, Meta(description="Size at which a delta is cut and continued in the next (`more`).")] = 256 * 1024
    views_per_s: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)],
        Meta(description="Views, refreshes and checks of each kind per session; the newest waits for its turn."),
    ] = 20.0
    messages_per_s: Annotated[Annotated[float, Meta(gt=0, le=1e9)], Meta(description="Inbound messages per session.")] = 50.0
    messages_burst: Annotated[Count, Meta(description="Inbound messages that may come at once.")] = 100
    control_frames_per_s: Annotated[
        Annotated[float, Meta(gt=0, le=1e9)], Meta(description="Pings and pongs a client may send; beyond it 1008.")
    ] = 10.0
    control_lane_bytes: Annotated[Count, Meta(description="What may wait in a session's control lane; beyond it 4000.")] = 1024 * 1024
    send_buffer_bytes: Annotated[Count, Meta(description="SO_SNDBUF of each connection; what is in it can no longer be conflated.")] = (
        128 * 1024
    )
    unsent_bytes: Annotated[Count, Meta(description="TCP_NOTSENT_LOWAT of each connection.")] = 16 * 1024
    write_stall_s: Annotated[Seconds, Meta(description="How long a socket may take no data before 4000.")] = 10.0
    handshake_timeout_s: Annotated[Seconds, Meta(description="How long the HTTP upgrade may take.")] = 5.0
    identify_timeout_s: Annotated[Seconds, Meta(description="How long the first message may take.")] = 5.0
    close_timeout_s: Annotated[Seconds, Meta(description="How long the peer may take to answer a close before the socket is cut.")] = 2.0
    ping_interval_s: Annotated[Seconds, Meta(description="Spacing of pings; keeps middleboxes from forgetting the connection.")] = 25.0
    pong_timeout_s: Annotated[Seconds, Meta(description="How long a pong may take before 4001.")] = 10.0
    tombstone_s: Annotated[Seconds, Meta(description="How long a death is remembered; also how long a client may be away and resume.")] = (
        3600.0
    )
    tombstones_max: Annotated[Count, Meta(description="Deaths remembered; beyond it the oldest are forgotten first.")] = 1_000_000
    connections: Annotated[
        Annotated[int, Meta(ge=0)], Meta(description="Connections in all; 0: the limit of file descriptors less 200.")
    ] = 0
    connections_half_open: Annotated[Count, Meta(description="Connections whose upgrade is not finished.")] = 512
    connections_per_address: Annotated[Count, Meta(description="Connections from one address; loopback is exempt.")] = 1000


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The core that matches changes with views."""

    kind: Annotated[Literal["auto", "reference"], Meta(description="Which engine runs; `reference` is the plain Python one.")] = "auto"


class PublishConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What publishers leave unsaid."""

    default_access: Annotated[
        list[str], Meta(description="Principals of an entity that names none: `public`, `user:ID` or `group:NAME`.")
    ] = field(default_factory=lambda: ["public"])


class TokenConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Who a token of `identity.tokens` is."""

    user: str
    groups: list[str] = field(default_factory=list)
    publish: list[str] = field(default_factory=list)


class IdentityConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Who connects."""

    anonymous: Annotated[
        Literal["loopback", "always", "never"],
        Meta(description="Who may connect without a token: nobody, everybody, or everybody as long as the server binds loopback only."),
    ] = "loopback"
    tokens: Annotated[
        dict[str, TokenConfig], Meta(description="Fixed tokens for tests and trials: token -> {user, groups, publish (id patterns)}.")
    ] = field(default_factory=dict)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it, by part."""

    server: ServerConfig = field(default_factory=ServerConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)


ENVIRONMENT_PREFIX = "REALTIME_"


def load(path: Path | None = None, environment: Mapping[str, str] | None = None, settings: Iterable[str] = ()) -> Config:
    """Return the configuration: defaults, then the file, then the environment, then `section.key=value` settings.

    Raises `ConfigError` with the source, the key and what is allowed.
    """
    config = Config()
    if path is not None:
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        config = _merged(config, table, str(path))
    for name, text in sorted((environment or {}).items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            config = _merged(config, {section: {key: _parse(section, key, text, name)}}, f"environment variable {name}")
    for setting in settings:
        place, equals, text = setting.partition("=")
        section, dot, key = place.strip().partition(".")
        if not (equals and dot and section and key):
            raise ConfigError(f"--set {setting}: section.key=value is expected")
        config = _merged(config, {section: {key: _parse(section, key, text, f"--set {setting}")}}, f"--set {setting}")
    return config


def _merged(config: Config, table: dict[str, Any], source: str) -> Config:
    """Return `config` with the values of a TOML table in place of its own; a section's other values stay."""
    merged = msgspec.to_builtins(config)
    for section, values in table.items():
        if section not in merged:
            raise ConfigError(f"{source}: unknown section `{section}`; allowed are {', '.join(merged)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: `{section}` is a section, not a value")
        for key in values:
            if key not in merged[section]:
                raise ConfigError(f"{source}: unknown key `{section}.{key}`; allowed are {', '.join(merged[section])}")
        merged[section] = merged[section] | values
    try:
        return msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        why, _, place = str(error).partition(" - at `$.")
        raise ConfigError(f"{source}: {place.rstrip('`')}: {why}") from None


def _parse(section: str, key: str, text: str, source: str) -> Any:
    """Return the value that a text outside of TOML stands for; a bare word is a string."""
    holder = getattr(Config(), section, None)
    kind = next((field.type for field in msgspec.structs.fields(holder) if field.name == key), None) if holder is not None else None
    while hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    if kind is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if "\n" in text or text[:1] in "[{":
            raise ConfigError(f"{source}: {section}.{key}: not a TOML value") from None
        return text
