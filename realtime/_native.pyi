"""What the extension module offers; it is made of native/*.pyx, *.pxi, *.cpp."""

from typing import Any

from realtime.engine import Engine, Settings

class NativeEngine(Engine):
    def __init__(self, settings: Settings, node_number: int = 0) -> None: ...

def __getattr__(name: str) -> Any: ...
