"""The contract of the bus port, for every adapter."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.port import MAX_NOTE, MAX_RECORD, Bus, Consumer, OffsetLost, Topic
from holdfast.clock import SystemClock
from holdfast.errors import Reject, Retry
from tests.contracts.bus_world import (
    SECONDS,
    Movements,
    P,
    Place,
    collect,
    reading,
    until,
    values,
    writing,
)


async def test_a_future_gives_the_offset_of_its_record(place: Place) -> None:
    """inv 1: a produce future gives the offset under which the record is read, key and headers included."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "outbound", {1: 0}) as reader:
        headers = (("reason", b"r"), ("n", b""))
        offsets = await asyncio.gather(
            *(producer.produce("outbound", 1, b"k%d" % n, b"v%d" % n, headers) for n in range(50))
        )
        found = await collect(reader, 50)
        assert {record.offset: record.value for record in found} == {
            offset: b"v%d" % n for n, offset in enumerate(offsets)
        }
        assert found[7].key == b"k7"
        assert found[7].headers == headers
        assert found[7].partition == 1


async def test_order_within_a_partition(place: Place) -> None:
    """inv 12: what one producer writes to a partition is read in that order, over many turns of the loop."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "outbound", dict.fromkeys(range(P), 0)) as reader:
        futures = []
        for n in range(600):
            futures.append(producer.produce("outbound", n % P, None, b"%d" % n))
            if n % 37 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)
        found = await collect(reader, 600, most=100)
        for partition in range(P):
            mine = [int(record.value or b"") for record in found if record.partition == partition]
            assert mine == list(range(partition, 600, P))


async def test_append_time(place: Place) -> None:
    """A record's `ts` is when the broker took it, in Unix ms."""
    bus = await place.bus()
    before = SystemClock().now_ms()
    async with writing(bus) as producer, reading(bus, "outbound", {0: 0}) as reader:
        await producer.produce("outbound", 0, b"k", b"v")
        (record,) = await collect(reader, 1)
        assert before - 5 <= record.ts <= SystemClock().now_ms() + 5


async def test_a_tombstone_has_no_value(place: Place) -> None:
    """None as a value arrives as None, which is how a compacted topic forgets."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "state", {0: 0}) as reader:
        await producer.produce("state", 0, b"k", None)
        (record,) = await collect(reader, 1)
        assert (record.key, record.value) == (b"k", None)


async def test_fetch_waits_and_returns_nothing(place: Place) -> None:
    """Where there is nothing to read, `fetch` comes back empty after its time, and with news at once."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "inbound", {0: 0}) as reader:
        assert not await reader.fetch(10, 0.05)
        waiting = asyncio.create_task(reader.fetch(10, SECONDS))
        await producer.produce("inbound", 0, b"k", b"v")
        assert values((await waiting)[0]) == [b"v"]


async def test_seek_goes_back_and_forth(place: Place) -> None:
    """After `seek` nothing from before it is returned, whatever had been fetched already."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "inbound", {0: 0, 1: 0}) as reader:
        await asyncio.gather(*(producer.produce("inbound", n % 2, None, b"%d" % n) for n in range(20)))
        await collect(reader, 1, most=2)
        reader.seek(0, 9)
        reader.seek(1, 8)
        found = await collect(reader, 3, most=2)
        assert sorted(int(value or b"") for value in values(found)) == [17, 18, 19]
        reader.seek(0, 0)
        again = await collect(reader, 10, most=3)
        assert values(again) == [b"%d" % n for n in range(0, 20, 2)]


async def test_pause_holds_one_partition_only(place: Place) -> None:
    """inv 7: a paused partition returns nothing and holds up no other; resumed, it has lost nothing."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "inbound", {0: 0, 1: 0}) as reader:
        await asyncio.gather(*(producer.produce("inbound", n % 2, None, b"%d" % n) for n in range(20)))
        first = await collect(reader, 1, most=1)
        reader.pause(0)
        mine = [record for record in first if record.partition == 1]
        while len(mine) < 10:
            for partition, records in (await reader.fetch(3, 1.0)).items():
                assert partition == 1
                mine += records
        assert not await reader.fetch(10, 0.05)
        await producer.produce("inbound", 1, None, b"later")
        assert values((await reader.fetch(10, SECONDS))[1]) == [b"later"]
        reader.resume(0)
        rest = await collect(reader, 10 - sum(record.partition == 0 for record in first))
        seen = [record for record in [*first, *rest] if record.partition == 0]
        assert values(seen) == [b"%d" % n for n in range(0, 20, 2)]


@pytest.mark.parametrize("group", ["", "g-dispatch"])
async def test_assign_replaces_what_is_read(place: Place, group: str) -> None:
    """A reader reads just what was assigned last, from the positions given then."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "inbound", {}, group) as reader:
        assert list(reader.assigned()) == []
        assert not await reader.fetch(10, 0.05)
        await asyncio.gather(*(producer.produce("inbound", n % P, None, b"%d" % n) for n in range(9)))
        reader.assign({0: 1, 2: 2})
        assert list(reader.assigned()) == [0, 2]
        assert sorted(int(value or b"") for value in values(await collect(reader, 3))) == [3, 6, 8]
        reader.assign({1: 0})
        assert values(await collect(reader, 3)) == [b"1", b"4", b"7"]
        for turn in range(6):
            reader.assign({turn % P: 1, (turn + 1) % P: 3})
            assert values(await collect(reader, 2)) == [b"%d" % (turn % P + n) for n in (3, 6)]
        reader.assign({0: 3, 2: 3})
        if group:
            await reader.commit({0: 3, 2: 3})
        await producer.produce("inbound", 1, None, b"not mine")
        await producer.produce("inbound", 2, None, b"mine")
        assert values(await collect(reader, 1)) == [b"mine"]


@pytest.mark.parametrize("position", [1, 7])
async def test_a_position_outside_the_log_is_reported(place: Place, position: int) -> None:
    """inv 9: a position below the log's start or above its end raises OffsetLost with both, until a seek."""
    bus = await place.bus()
    async with writing(bus) as producer:
        await asyncio.gather(*(producer.produce("outbound", 0, None, b"%d" % n) for n in range(5)))
        await place.truncate("outbound", 0, 3)
        async with reading(bus, "outbound", {0: position}) as reader:
            for _ in range(2):
                with pytest.raises(OffsetLost) as lost:
                    await collect(reader, 1)
                error = lost.value
                assert (error.partition, error.position, error.start, error.end) == (0, position, 3, 5)
            reader.seek(0, 3)
            assert values(await collect(reader, 2)) == [b"3", b"4"]
            reader.seek(0, 5)  # the end itself is a position to wait at
            assert not await reader.fetch(10, 0.05)


async def test_ends(place: Place) -> None:
    """`ends` tells where each partition's log starts and ends."""
    bus = await place.bus()
    async with writing(bus) as producer:
        await asyncio.gather(*(producer.produce("outbound", 1, None, b"%d" % n) for n in range(5)))
        await place.truncate("outbound", 1, 2)
        assert dict(await bus.ends("outbound")) == {0: (0, 0), 1: (2, 5), 2: (0, 0)}


async def progress(bus: Bus, topic: Topic, group: str) -> dict[int, tuple[int, int]]:
    """Ask until there is an answer: a new Kafka has no coordinators in its first seconds."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return {p: one[:2] for p, one in (await bus.progress(topic, group)).items()}
            except Retry:
                await asyncio.sleep(0.05)


async def test_progress(place: Place) -> None:
    """inv 7: `progress` tells where a group would go on and where the log ends, of all partitions at once.

    Nothing committed, gone by retention, or above the end: from the first offset, the same, at the end.
    """
    bus = await place.bus()
    async with writing(bus) as producer:
        await asyncio.gather(*(producer.produce("inbound", n % 2, None, b"%d" % n) for n in range(10)))
        assert await progress(bus, "inbound", "g") == {0: (0, 5), 1: (0, 5), 2: (0, 0)}
        consumer = await Movements([], "m").join(bus, "g")
        await collect(consumer, 10)
        await consumer.commit({0: 2})
        assert await progress(bus, "inbound", "g") == {0: (2, 5), 1: (0, 5), 2: (0, 0)}
        assert await progress(bus, "inbound", "another") == {0: (0, 5), 1: (0, 5), 2: (0, 0)}
        assert await progress(bus, "outbound", "g") == dict.fromkeys(range(P), (0, 0))
        await place.truncate("inbound", 0, 4)
        await place.truncate("inbound", 1, 5)
        assert await progress(bus, "inbound", "g") == {0: (4, 5), 1: (5, 5), 2: (0, 0)}
        await consumer.commit({0: 5, 2: 7})
        assert await progress(bus, "inbound", "g") == {0: (5, 5), 1: (5, 5), 2: (0, 0)}
        await consumer.close()


async def test_notes_of_a_commit(place: Place) -> None:
    """What was noted with an offset is told with it, until the next commit of that partition."""
    bus = await place.bus()
    async with writing(bus) as producer:
        await asyncio.gather(*(producer.produce("inbound", n % 2, None, b"%d" % n) for n in range(4)))
        consumer = await Movements([], "m").join(bus, "g")
        await collect(consumer, 4)
        await consumer.commit({0: 1, 1: 2}, {0: "a" * MAX_NOTE, 2: "not committed"})
        await progress(bus, "inbound", "g")
        found = await bus.progress("inbound", "g")
        assert dict(found) == {0: (1, 2, "a" * MAX_NOTE), 1: (2, 2, ""), 2: (0, 0, "")}
        await consumer.commit({0: 1})
        assert (await bus.progress("inbound", "g"))[0] == (1, 2, "")
        await consumer.close()


async def test_progress_of_a_reader(place: Place) -> None:
    """What a reader without a group's rebalance commits is told of its group id."""
    bus, another = await place.bus(), await place.bus()
    async with writing(bus) as producer, reading(bus, "outbound", {1: 0}, "g-dispatch") as reader:
        await asyncio.gather(*(producer.produce("outbound", 1, None, b"%d" % n) for n in range(3)))
        await collect(reader, 3)
        await reader.commit({1: 3})
        assert await progress(another, "outbound", "g-dispatch") == {0: (0, 0), 1: (3, 3), 2: (0, 0)}


async def test_offset_at(place: Place) -> None:
    """`offset_at` finds the first record of a time or later; where there is none, the end."""
    bus = await place.bus()
    assert await bus.offset_at("outbound", 0, 0) == 0
    async with writing(bus) as producer, reading(bus, "outbound", {0: 0}) as reader:
        for n in range(3):
            await producer.produce("outbound", 0, None, b"%d" % n)
            await asyncio.sleep(0.01)
        times = [record.ts for record in await collect(reader, 3)]
    assert times[0] < times[1] < times[2]
    assert [await bus.offset_at("outbound", 0, ts) for ts in times] == [0, 1, 2]
    assert await bus.offset_at("outbound", 0, times[0] + 1) == 1
    assert await bus.offset_at("outbound", 0, 0) == 0
    assert await bus.offset_at("outbound", 0, times[2] + 60_000) == 3
    await place.truncate("outbound", 0, 2)
    assert await bus.offset_at("outbound", 0, 0) == 2


async def test_a_group_starts_at_the_beginning_and_goes_on_from_the_commit(place: Place) -> None:
    """inv 2: a group without commits reads all; its successor goes on from the commit, no later."""
    bus = await place.bus()
    async with writing(bus) as producer:
        await asyncio.gather(*(producer.produce("inbound", 0, None, b"%d" % n) for n in range(6)))
        first = await Movements([], "first").join(bus, "g")
        assert values(await collect(first, 6)) == [b"%d" % n for n in range(6)]
        await first.commit({0: 4})
        await first.close()
        second = await Movements([], "second").join(bus, "g")
        assert values(await collect(second, 2)) == [b"4", b"5"]
        await second.close()


async def test_a_group_hands_over_without_loss(place: Place) -> None:
    """inv 2, 8: nobody gets a partition before its holder's `on_revoked` ended; nothing is lost by it."""
    one, two = await place.bus(), await place.bus()
    log: list[tuple[str, str, tuple[int, ...]]] = []
    seen: list[tuple[int, int]] = []
    stop = asyncio.Event()

    async def work(member: Movements, consumer: Consumer) -> None:
        while not stop.is_set():
            for partition, records in (await consumer.fetch(5, 0.05)).items():
                for record in records:
                    seen.append((partition, record.offset))
                    member.commits[partition] = record.offset + 1

    async with writing(one) as producer:
        await asyncio.gather(*(producer.produce("inbound", n % P, None, b"") for n in range(60)))
        a = Movements(log, "a")
        tasks = [asyncio.create_task(work(a, await a.join(one, "g")))]
        await until(lambda: len(seen) >= 10)
        b = Movements(log, "b")
        tasks.append(asyncio.create_task(work(b, await b.join(two, "g"))))
        await asyncio.gather(*(producer.produce("inbound", n % P, None, b"") for n in range(60)))
        await until(lambda: len(set(seen)) == 120)
        stop.set()
        await asyncio.gather(*tasks)
        assert a.consumer is not None
        assert b.consumer is not None
        assert sorted([*a.consumer.assigned(), *b.consumer.assigned()]) == list(range(P))
        told = list(log)
        await b.consumer.close()
        await a.consumer.close()
    held: dict[int, str] = {}
    for name, what, partitions in told:
        for partition in partitions:
            if what == "assigned":
                assert held.get(partition) in (None, name), f"{partition} was taken from a live holder"
                held[partition] = name
            else:
                held.pop(partition, None)
    # Handed over with a commit, nothing was read twice either.
    assert len(seen) == 120


async def test_a_reader_commits_for_lag_only(place: Place) -> None:
    """A reader may commit under a group id; it reads on from where it was told, not from there."""
    bus = await place.bus()
    async with writing(bus) as producer, reading(bus, "outbound", {0: 0}, "g-dispatch") as reader:
        await asyncio.gather(*(producer.produce("outbound", 0, None, b"%d" % n) for n in range(4)))
        await collect(reader, 4)
        await reader.commit({0: 4})
        reader.seek(0, 1)
        assert values(await collect(reader, 3)) == [b"1", b"2", b"3"]


async def test_a_full_buffer_refuses_and_counts(place: Place) -> None:
    """inv 7: above its bound in records or bytes a producer refuses at once, counts it, and recovers.

    Above half of it it is crowded, so that who can wait may wait.
    """
    bus = await place.bus()
    async with writing(bus) as producer:
        futures = [producer.produce("inbound", 0, None, b"%d" % n) for n in range(500)]
        assert not producer.crowded
        futures += [producer.produce("inbound", 0, None, b"%d" % n) for n in range(500, 1000)]
        assert producer.crowded
        with pytest.raises(Retry):
            producer.produce("inbound", 0, None, b"too many")
        await asyncio.gather(*futures)
        assert not producer.crowded
        big = producer.produce("inbound", 0, None, b"x" * 600_000)
        assert producer.crowded
        with pytest.raises(Retry):
            producer.produce("inbound", 0, None, b"x" * 600_000)
        await big
        await producer.produce("inbound", 0, None, b"x" * 600_000)
    assert place.metrics.bus_buffer_full._value.get() == 2
    assert place.metrics.bus_produced.labels("inbound")._value.get() == 1002


async def test_a_record_that_no_broker_takes_is_refused(place: Place) -> None:
    """inv 7, 11: a record above MAX_RECORD is refused to its writer and disturbs nobody else's."""
    bus = await place.bus()
    async with writing(bus) as producer:
        other = producer.produce("inbound", 0, None, b"small")
        with pytest.raises(Reject) as refused:
            producer.produce("inbound", 0, None, b"x" * (MAX_RECORD + 1))
        assert refused.value.code == "too_large"
        assert place.metrics.bus_too_large.labels("inbound")._value.get() == 1
        assert await other == 0
        assert await producer.produce("inbound", 0, None, b"x" * (MAX_RECORD - 1000)) == 1


async def test_close_waits_for_what_is_pending(place: Place) -> None:
    """inv 10: closing a producer loses nothing that was given to it; after that it refuses."""
    bus = await place.bus()
    producer = await bus.producer(deadline=10)
    futures = [producer.produce("inbound", n % P, None, b"%d" % n) for n in range(300)]
    await producer.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(Retry):
        producer.produce("inbound", 0, None, b"late")


async def test_healthy(place: Place) -> None:
    """A bus that answers says so."""
    bus = await place.bus()
    assert await bus.healthy()
