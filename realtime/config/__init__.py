"""Settings: frozen Structs, one `load()`, passed down by part.

settings.py has the Structs, their defaults and reasons; kinds.py says what is allowed; loading.py merges the sources;
text.py writes the default file, the effective one and the reference.
"""

from realtime.config.loading import Flag, load
from realtime.config.settings import (
    Config,
    EngineConfig,
    HttpConfig,
    IdentityConfig,
    LimitsConfig,
    PublishConfig,
    RedisConfig,
    ServerConfig,
    StoreConfig,
    TokenConfig,
)

__all__ = [
    "Config",
    "EngineConfig",
    "Flag",
    "HttpConfig",
    "IdentityConfig",
    "LimitsConfig",
    "PublishConfig",
    "RedisConfig",
    "ServerConfig",
    "StoreConfig",
    "TokenConfig",
    "load",
]
