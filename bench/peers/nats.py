"""Tile subjects over nats-server, the best that could be had without writing a server: no filters, rights or conflation.

Law: the server is Debian's, on one core, with its own defaults; the viewers subscribe over WebSocket as a page would.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.peers.peer import Measured
from bench.peers.programs import Program, find, free_port, version_of
from bench.peers.viewers import Viewers
from bench.servers import cores

CONFIG = """listen: "127.0.0.1:{port}"
websocket {{ listen: "127.0.0.1:{websocket_port}", no_tls: true }}
"""


class Nats:
    """See `Peer`."""

    name = "NATS tile subjects"
    start_rate = 8000.0
    warm_up_s = 2.0

    def __init__(self, viewers: Viewers) -> None:
        self._viewers = viewers
        self._commands: list[str] = []

    async def prepare(self) -> dict[str, str]:
        """See `Peer`."""
        self._server = find("nats-server", "Debian's package nats-server")
        return {"nats-server": version_of(self._server, "--version")}

    def commands(self) -> list[str]:
        """See `Peer`."""
        return self._commands

    async def measure(self, rate: float, seconds: float) -> Measured:
        """See `Peer`."""
        server_core, load_core = cores() or (None, None)
        port, websocket_port = free_port(), free_port()
        with tempfile.TemporaryDirectory(prefix="realtime-bench-") as directory:
            config = Path(directory) / "nats.conf"
            config.write_text(CONFIG.format(port=port, websocket_port=websocket_port))
            command = [self._server, "-c", str(config)]
            self._commands = [f"GOMAXPROCS=1 {' '.join(command)}"]
            async with Program(command, Path(directory), core=server_core, port=websocket_port, environment={"GOMAXPROCS": "1"}) as server:
                return await self._viewers.measure(
                    "nats", rate, self.warm_up_s, seconds, {"nats-server": server}, port=websocket_port, publish_port=port, core=load_core
                )
