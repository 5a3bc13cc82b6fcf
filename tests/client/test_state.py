"""The client's memory alone: what it makes of single frames."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec

from holdfast.client.events import Completed, Event, Failed, Operation, Renew
from holdfast.client.state import ANSWERED_KEPT, ClientState
from holdfast.protocol.frames import Message

LIMITS = {"frame": 65536, "rate": 100, "in_flight": 8, "subscriptions": 200, "resend": 300}


def connected(**channels: tuple[str, int]) -> ClientState:
    state = ClientState(client="c", device="", resume={}, random=random.Random(1))
    places = {
        name.replace("_", ":"): {"epoch": epoch, "seq": seq, "recovered": False}
        for name, (epoch, seq) in channels.items()
    }
    told: dict[str, Any] = {
        "session": "s",
        "user": "ann",
        "node": "n",
        "heartbeat": 25,
        "channels": places,
        "limits": LIMITS,
    }
    receive(state, t="connected", **told)
    return state


def receive(state: ClientState, now: float = 0.0, **frame: Any) -> list[Event]:
    return state.receive(json.dumps(frame).encode(), now)


def message(state: ClientState, seq: int, epoch: str = "e") -> list[Event]:
    more: dict[str, Any] = {"id": str(seq), "from": None, "type": "t", "ts": 1, "data": seq}
    return receive(state, t="message", channel="user:ann", seq=seq, epoch=epoch, **more)


def send(state: ClientState, count: int) -> list[Operation]:
    made = [Operation("send", "user:bob", "t", msgspec.Raw(b"%d" % number)) for number in range(count)]
    for operation in made:
        state.submit(operation)
    return made


def written(state: ClientState, now: float = 0.0) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in state.outgoing(now)[0]]


def test_a_duplicate_is_dropped_and_counted() -> None:
    """What is at or below the position is not presented again, and is no reason to reconnect (inv 4)."""
    state = connected(user_ann=("e", 0))
    assert isinstance(message(state, 1)[0], Message)
    assert message(state, 1) == []
    assert state.duplicates == 1


def test_the_first_message_brings_a_channels_epoch() -> None:
    """A channel that was never written has no epoch; its first message sets it, another one breaks it."""
    state = connected(user_ann=("", 0))
    assert isinstance(message(state, 1, "new")[0], Message)
    assert state.positions["user:ann"].epoch == "new"
    assert isinstance(message(state, 2, "other")[0], Renew)


def test_everything_after_a_failed_send_is_sent_again_in_order() -> None:
    """After a retriable error all from that n on go again, after the wait, before anything later (inv 12)."""
    state = connected()
    send(state, 3)
    first = written(state)
    assert [frame["n"] for frame in first] == [1, 2, 3]
    receive(state, t="ack", id=first[0]["id"], message="m1")
    receive(state, t="error", id=first[1]["id"], code="unavailable", message="", retry=2)
    send(state, 1)
    assert written(state, 1.0) == []
    probe = written(state, 3.0)
    assert [frame["n"] for frame in probe] == [2], "who may be refused again goes alone"
    receive(state, t="ack", id=probe[0]["id"], message="m2")
    assert [frame["n"] for frame in written(state, 3.0)] == [3, 4]


def test_a_refusal_of_a_whole_window_is_one_refusal() -> None:
    """What is said to those behind a refused send does not make the wait longer than was told."""
    state = connected()
    send(state, 8)
    first = written(state)
    receive(state, t="error", id=first[0]["id"], code="unavailable", message="", retry=3)
    for frame in first[1:]:
        receive(state, t="error", id=frame["id"], code="out_of_order", message="", retry=True)
    due = state.due()
    assert due is not None
    assert 3.0 <= due <= 3.0 * 1.25
    assert written(state, 2.9) == []
    again = written(state, 4.0)
    assert [frame["n"] for frame in again] == [1]
    receive(state, now=4.0, t="error", id=again[0]["id"], code="unavailable", message="", retry=3)
    assert [frame["n"] for frame in written(state, 8.0)] == [1]


def test_frames_are_paced_to_the_rate() -> None:
    """Nobody who only ever awaits `send` is refused as `rate_limited`, let alone closed as `flooding`."""
    state = connected()
    rate = LIMITS["rate"]
    send(state, 10 * rate)
    times: list[float] = []
    now = 0.0
    while len(times) < 4 * rate:
        for frame in written(state, now):
            times.append(now)
            receive(state, now, t="ack", id=frame["id"], message="m")
        now = max(now + 0.001, state.due() or 0.0) if len(times) >= rate else now + 0.0001
    for later, at in enumerate(times):
        earlier = sum(1 for time in times[:later] if time > at - 1.0)
        assert earlier < 2 * rate, "a burst of a second's worth, and then the rate"
    assert times[-1] <= 3.2, "and no slower"


def test_an_error_of_an_older_transmission_changes_nothing() -> None:
    """Only the answer to the latest transmission of a send counts as a failure; any ack counts."""
    state = connected()
    operations = send(state, 2)
    first = written(state)
    receive(state, t="error", id=first[0]["id"], code="unavailable", message="", retry=1)
    again = written(state, 5.0)
    assert receive(state, t="error", id=first[1]["id"], code="out_of_order", message="", retry=True) == []
    assert written(state, 9.0) == []
    assert receive(state, t="ack", id=first[0]["id"], message="m1") == []
    assert receive(state, t="ack", id=again[0]["id"], message="m1") == [Completed(operations[0], "m1")]


def test_out_of_order_for_the_oldest_asks_for_a_new_connection() -> None:
    """When the server waits for an n that is finished here, only a new connection sets a new start."""
    state = connected()
    send(state, 1)
    frame = written(state)[0]
    events = receive(state, t="error", id=frame["id"], code="out_of_order", message="", retry=True)
    assert isinstance(events[0], Renew)


def test_too_many_in_flight_is_tried_again_but_too_many_channels_is_not() -> None:
    """`too_many` passes for a send; for a subscription it is an answer."""
    state = connected()
    send(state, 1)
    state.submit(Operation("subscribe", "room:a"))
    subscribe, sent = written(state)
    assert receive(state, t="error", id=sent["id"], code="too_many", message="", retry=False) == []
    failed = receive(state, t="error", id=subscribe["id"], code="too_many", message="", retry=False)
    assert isinstance(failed[0], Failed)
    assert [frame["n"] for frame in written(state, 10.0)] == [1]


def test_answered_sends_are_remembered_up_to_a_bound() -> None:
    """A handler's refusal names the message it refuses; the memory for that is bounded (inv 7)."""
    state = connected()
    numbers: list[int] = []
    for _ in range(ANSWERED_KEPT + 10):
        send(state, 1)
        number = written(state, len(numbers) * 1.0)[0]["id"]
        numbers.append(number)
        receive(state, t="ack", id=number, message=f"m{number}")
    trouble = receive(state, t="error", id=numbers[-1], code="rejected", message="no", retry=False)
    assert getattr(trouble[0], "id", None) == f"m{numbers[-1]}"
    assert receive(state, t="error", id=numbers[0], code="rejected", message="no", retry=False) == []


def test_a_cancelled_send_that_was_not_transmitted_leaves_no_hole() -> None:
    """What is withdrawn before its transmission takes no n with it; what was transmitted is seen through."""
    state = connected()
    state.lost()
    operations = send(state, 3)
    state.withdraw(operations[1])
    receive(
        state,
        t="connected",
        session="s",
        user="ann",
        node="n",
        heartbeat=25,
        channels={},
        limits=LIMITS,
    )
    frames = written(state)
    assert [(frame["n"], frame["data"]) for frame in frames] == [(1, 0), (2, 2)]
    state.withdraw(operations[0])
    state.lost()
    assert len(state.abandon()) == 2


def test_frames_of_a_newer_server_are_ignored() -> None:
    """An unknown `t` is ignored, what is no frame at all is a reason to reconnect."""
    state = connected()
    assert receive(state, t="hologram", x=1) == []
    assert isinstance(state.receive(b"{", 0.0)[0], Renew)
