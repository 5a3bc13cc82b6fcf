"""What a partition makes durable, where producers give up batches that are written all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from services.dispatch import saver as module
from services.dispatch.saver import LATE, Saver, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Topic:
    """A producer and its topic: `fails` lets the next batches be given up; `late` writes them after all.

    While it is `slow`, what is written waits for its answer.
    """

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None]] = []
        self.fails = 0
        self.slow = False
        self._unanswered: list[asyncio.Future[int]] = []
        self._given_up: list[tuple[bytes | None, bytes | None]] = []

    def produce(self, _: str, __: int, key: bytes | None, value: bytes | None, *___: Any) -> Any:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.fails:
            self.fails -= 1
            self._given_up.append((key, value))
            done.set_exception(Retry("no answer"))
        else:
            self.records.append((key, value))
            self._unanswered.append(done)
            if not self.slow:
                self.answer()
        return done

    def answer(self) -> None:
        self.slow = False
        for done in self._unanswered:
            done.set_result(0)
        self._unanswered.clear()

    def late(self) -> None:
        self.records += self._given_up
        self._given_up.clear()

    def kept(self) -> dict[bytes | None, bytes | None]:
        """What compaction leaves."""
        return dict(self.records)


def state(key: str, value: str) -> Write:
    return Write("state", 0, f"member\0{key}".encode(), value.encode())


def saving() -> tuple[ManualClock, Topic, Metrics, Saver, Callable[[str, str], None]]:
    clock, topic, metrics = ManualClock(), Topic(), Metrics()
    saver = Saver(topic, clock, -1, metrics=metrics)  # type: ignore[arg-type]
    offsets = iter(range(10_000))

    def save(key: str, value: str) -> None:
        saver.add(next(offsets), [state(key, value)])

    return clock, topic, metrics, saver, save


async def test_a_late_batch_does_not_stay_behind_what_is_newer() -> None:
    """inv 9: an older record that was given up and written all the same is not what the topic keeps."""
    clock, topic, _, saver, save = saving()
    await clock.advance(LATE + 1)
    topic.fails = 1
    save("bob", "joined")
    await clock.advance(1)
    save("bob", "left")
    await clock.advance(1)
    topic.late()
    assert topic.kept() == {b"member\0bob": b"joined"}
    await clock.advance(LATE)
    assert topic.kept() == {b"member\0bob": b"left"}
    await saver.close()


async def test_what_a_predecessor_gave_up_is_thought_of() -> None:
    """inv 9: the first half minute of a tenure is one in which older records may come."""
    clock, topic, _, saver, save = saving()
    save("bob", "left")
    await clock.advance(1)
    topic.records.append((b"member\0bob", b"joined"))
    await clock.advance(LATE)
    assert topic.kept() == {b"member\0bob": b"left"}
    await saver.close()


async def test_what_is_written_again_is_not_older_than_what_waits() -> None:
    """inv 9: a newer record that waits is not followed by the one before it."""
    clock, topic, _, saver, save = saving()
    save("bob", "joined")
    await clock.advance(LATE - 1)
    topic.slow = True
    save("bob", "left")
    await clock.advance(2)
    topic.answer()
    await clock.advance(3 * LATE)
    assert topic.kept() == {b"member\0bob": b"left"}
    await saver.close()


async def test_nothing_is_written_twice_without_a_reason() -> None:
    """Half a minute after a beginning, and after the last failure, each record is written once."""
    clock, topic, _, saver, save = saving()
    await clock.advance(LATE + 1)
    for number in range(10):
        save(f"u{number}", "joined")
        await clock.advance(1)
    await clock.advance(3 * LATE)
    assert len(topic.records) == 10
    await saver.close()


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: above the bound the one written longest ago is let go, and counted."""
    monkeypatch.setattr(module, "AGAIN", 3)
    clock, topic, metrics, saver, save = saving()
    for number in range(5):
        save(f"u{number}", "joined")
    await clock.advance(LATE + 1)
    assert [key for key, _ in topic.records[5:]] == [b"member\0u2", b"member\0u3", b"member\0u4"]
    assert metrics.dispatch_state_let_go._value.get() == 2
    await saver.close()
