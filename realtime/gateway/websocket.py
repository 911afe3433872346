"""INTERIM connection layer."""

from __future__ import annotations
import asyncio
from collections import deque
from typing import Any
from picows import WSCloseCode, WSListener, WSMsgType, WSUpgradeResponse, WSUpgradeResponseWithListener, ws_create_server
from http import HTTPStatus
from realtime.errors import CloseCode


class Connection(WSListener):
    def __init__(self, owner, handler, is_text):
        self.owner = owner
        self.handler = handler
        self.is_text = is_text
        self.is_paused = False
        self.peer = ""
        self.message_bytes_max = 1 << 20
        self.control = deque()
        self.transport = None
        self.code = 1006
        self.held = False

    def on_ws_connected(self, t):
        self.transport = t
        self.owner.connections.add(self)
        t.underlying_transport.set_write_buffer_limits(high=65536, low=16384)
        self.handler.on_open(self)

    def on_ws_frame(self, t, f):
        if f.msg_type == WSMsgType.CLOSE:
            self.code = int(f.get_close_code())
            t.send_close(f.get_close_code())
            t.disconnect()
            return
        if f.msg_type == WSMsgType.TEXT:
            self.handler.on_message(f.get_payload_as_utf8_text())
        elif f.msg_type == WSMsgType.BINARY:
            self.handler.on_message(f.get_payload_as_bytes())
        elif f.msg_type == WSMsgType.PING:
            t.send_pong(f.get_payload_as_bytes())

    def on_ws_disconnected(self, t):
        self.owner.connections.discard(self)
        self.handler.on_close(self.code)

    def pause_writing(self):
        self.is_paused = True

    def resume_writing(self):
        self.is_paused = False
        while self.control and not self.is_paused:
            self._send(self.control.popleft())
        if not self.is_paused:
            self.handler.on_writable()

    def _send(self, d):
        self.transport.send(WSMsgType.TEXT if self.is_text else WSMsgType.BINARY, d)

    def send_control(self, d):
        if self.is_paused:
            self.control.append(d)
        else:
            self._send(d)

    def send_state(self, d):
        self._send(d)

    def close(self, code, reason=""):
        if not self.transport.is_disconnected:
            self.code = int(code)
            self.transport.send_close(WSCloseCode(code) if False else int(code), reason.encode())
            self.transport.disconnect()

    def identified(self):
        pass

    def hold_reading(self, h):
        pass


class Listener:
    def __init__(self):
        self.connections = set()
        self.port = 0
        self.server = None

    def stop_accepting(self):
        self.server.close()

    def close_all(self, code):
        for c in list(self.connections):
            c.close(code)

    async def aclose(self):
        self.server.close()
        await asyncio.sleep(0.01)


async def listen(config, handler_factory, public_get=None, count=None):
    l = Listener()

    def factory(request):
        path = request.path.decode()
        c0=request.headers.get("connection","")
        if "upgrade" in c0.lower(): request.headers["Connection"]="upgrade"
        if path != "/ws":
            page = public_get(path.partition("?")[0], {}) if public_get else None
            if page is None:
                return None
            h=dict(page.headers); h["Content-Type"]=page.content_type
            return WSUpgradeResponseWithListener(WSUpgradeResponse.create_ok_response(page.body, h), None)
        offered = [x.strip() for x in request.headers.get("sec-websocket-protocol", "").split(",") if x.strip()]
        is_text = True
        extra = None
        for o in offered:
            if o in ("realtime.v1.json", "realtime.v1.msgpack"):
                is_text = o.endswith("json")
                extra = {"Sec-WebSocket-Protocol": o}
                break
        c = Connection(l, handler_factory(), is_text)
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(extra), c)

    l.server = await ws_create_server(
        factory, config.server.host, config.server.port, enable_auto_pong=False, use_aiofastnet=False, backlog=config.server.backlog
    )
    l.port = l.server.sockets[0].getsockname()[1]
    return l
