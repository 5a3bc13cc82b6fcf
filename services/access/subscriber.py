"""The channels of one connection: those it is subscribed to, and those it is joining."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .driver import Driver
    from .node import AccessNode
    from .registry import Channel


class Subscriber:
    """`channels` is None, the one channel, or a dict by name: most connections have their inbox alone."""

    __slots__ = ("_node", "channels", "joining")

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self.channels: Channel | dict[str, Channel] | None = None
        self.joining: set[str] | None = None

    def channels_list(self) -> list[Channel]:
        """Return the channels that it is subscribed to."""
        channels = self.channels
        if channels is None:
            return []
        return list(channels.values()) if isinstance(channels, dict) else [channels]

    def has(self, name: str) -> bool:
        """Tell whether it is subscribed to a channel."""
        channels = self.channels
        if isinstance(channels, dict):
            return name in channels
        return channels is not None and channels.name == name

    def enter(self, channel: Channel) -> None:
        """Note a subscription."""
        channels = self.channels
        if channels is None:
            self.channels = channel
        elif isinstance(channels, dict):
            channels[channel.name] = channel
        else:
            self.channels = {channels.name: channels, channel.name: channel}
        self._node.subscriptions += 1

    def leave(self, channel: Channel) -> None:
        """End a subscription."""
        if isinstance(self.channels, dict):
            del self.channels[channel.name]
        else:
            self.channels = None
        self._node.subscriptions -= 1
        self._node.delivery.leave(channel, cast("Driver", self))
        self._node.registry.tidy(channel)

    def mark_joining(self, name: str) -> bool:
        """Note a join under way; False where there is one already."""
        if self.joining is None:
            self.joining = {name}
        elif name in self.joining:
            return False
        else:
            self.joining.add(name)
        return True

    def unmark_joining(self, name: str) -> None:
        """Note the end of a join under way."""
        if self.joining is not None:
            self.joining.discard(name)
            if not self.joining:
                self.joining = None
