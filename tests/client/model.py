"""A model of the server, small enough to be believed: logs in lists, TCP frames on the memory network."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from holdfast.records import message_id

if TYPE_CHECKING:
    from holdfast.network import MemoryNetwork

LIMITS = {"frame": 65536, "rate": 100, "in_flight": 8, "subscriptions": 200, "resend": 300}
EPOCH = "e1"


class ModelServer:
    """What is sent to it is kept once by (client, n). `fail`, `mute`, `refuse` make it misbehave."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.port = 7000
        self.logs: dict[str, list[dict[str, Any]]] = {"user:ann": []}
        self.known: dict[tuple[str, int], str] = {}
        self.lines: list[Line] = []
        self.connects: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        self.fail = 0
        self.mute = False
        self.twice = False
        self.deaf = False
        self.refuse: tuple[str, int] | None = None  # who connects gets this code, and is closed with that one
        self.limits = dict(LIMITS)
        self.heartbeat = 25.0
        self._server: Any = None

    async def start(self) -> None:
        self._server = await self.network.listen(lambda: Line(self), "model", self.port)

    def stop(self) -> None:
        self._server.close()
        self.drop()

    def drop(self) -> None:
        for line in list(self.lines):
            line.transport.abort()

    def publish(self, channel: str, data: Any, **more: Any) -> None:
        log = self.logs.setdefault(channel, [])
        log.append({"id": f"{channel}-{len(log)}", "from": None, "type": "t", "ts": 1, "data": data} | more)
        for line in self.lines:
            if channel in line.channels and not self.mute:
                for _ in range(2 if self.twice else 1):
                    line.message(channel, len(log))

    def data(self, channel: str) -> list[Any]:
        return [entry["data"] for entry in self.logs.get(channel, [])]


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.buffer = b""
        self.client = ""
        self.next_n: int | None = None
        self.channels: set[str] = set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.lines.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.server.lines:
            self.server.lines.remove(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 4:
            length = int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) < 4 + length:
                return
            raw, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
            if not self.server.deaf and not self.transport.is_closing():
                self.on_frame(json.loads(raw))

    def put(self, frame: dict[str, Any]) -> None:
        raw = json.dumps(frame).encode()
        if not self.server.mute:
            self.transport.write(len(raw).to_bytes(4, "big") + raw)

    def message(self, channel: str, seq: int) -> None:
        entry = self.server.logs[channel][seq - 1]
        self.put({"t": "message", "channel": channel, "seq": seq, "epoch": EPOCH} | entry)

    def place(self, channel: str, position: dict[str, Any] | None) -> dict[str, Any]:
        self.channels.add(channel)
        head = len(self.server.logs.setdefault(channel, []))
        if position is not None and position["epoch"] in (EPOCH, "") and position["seq"] <= head:
            return {"epoch": EPOCH, "seq": position["seq"], "recovered": True}
        return {"epoch": EPOCH, "seq": head, "recovered": False}

    def on_frame(self, frame: dict[str, Any]) -> None:
        server = self.server
        server.received.append(frame)
        match frame["t"]:
            case "connect":
                server.connects.append(frame)
                if server.refuse is not None:
                    self.end(*server.refuse, "no")
                    return
                self.client = frame["client"]
                resume = frame.get("resume", {})
                channels = {name: self.place(name, resume.get(name)) for name in {"user:ann", *resume}}
                self.put(
                    {"t": "connected", "session": "s", "user": "ann", "node": "m", "channels": channels}
                    | {"heartbeat": server.heartbeat, "limits": server.limits}
                )
                for name, state in channels.items():
                    self.catch_up(name, state)
            case "subscribe":
                state = self.place(frame["channel"], frame.get("since"))
                self.put({"t": "subscribed", "id": frame["id"], "channel": frame["channel"]} | state)
                self.catch_up(frame["channel"], state)
            case "unsubscribe":
                self.channels.discard(frame["channel"])
                self.put({"t": "unsubscribed", "id": frame["id"], "channel": frame["channel"]})
            case "send":
                self.on_send(frame)
            case "request":
                self.put({"t": "reply", "id": frame["id"], "data": {"asked": frame["type"]}})
            case "ping":
                self.put({"t": "pong"})
            case "refresh":
                self.put({"t": "refreshed", "id": frame["id"]})

    def catch_up(self, channel: str, state: dict[str, Any]) -> None:
        for seq in range(state["seq"] + 1, len(self.server.logs[channel]) + 1):
            self.message(channel, seq)

    def on_send(self, frame: dict[str, Any]) -> None:
        server, n = self.server, frame["n"]

        def refuse(code: str, retry: bool | float) -> None:
            self.put({"t": "error", "id": frame["id"], "code": code, "message": code, "retry": retry})

        if self.next_n is not None and n > self.next_n:
            refuse("out_of_order", True)
            return
        if frame["type"] == "forbidden":
            self.next_n = n + 1
            refuse("forbidden", False)
            return
        if server.fail:
            server.fail -= 1
            self.next_n = n
            refuse("unavailable", 0.2)
            return
        self.next_n = max(n + 1, self.next_n or 0)
        key = (self.client, n)
        if key not in server.known:
            server.known[key] = message_id("ann", *key)
            server.publish(frame["to"], frame["data"], type=frame["type"])
        self.put({"t": "ack", "id": frame["id"], "message": server.known[key]})

    def end(self, code: str, close: int, message: str = "m") -> None:
        """Close as a carrier without close codes does."""
        self.put({"t": "error", "code": code, "message": message, "retry": False, "close": close})
        self.transport.close()
