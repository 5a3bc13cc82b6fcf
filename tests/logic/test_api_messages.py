"""Messages by the control layer: what is published, what history answers, and the bounds of both."""

from __future__ import annotations

import pytest

from holdfast import records
from holdfast.errors import Retry


async def test_publish_one(api):
    """inv 1: the answer comes when the message is durable; its id is the message's."""
    answer = await api.call(
        "POST", "/v1/publish", {"channel": "room:r", "type": "t", "data": {"a": [1]}, "from": "bot"}
    )
    assert [m["id"] for m in api.messages()] == [answer["id"]]
    (message,) = (await api.call("GET", "/v1/channels/room:r/messages"))["messages"]
    assert message["id"] == answer["id"]
    assert (message["from"], message["type"], message["data"]) == ("bot", "t", {"a": [1]})
    assert "cause" not in message
    assert api.count("logic_published_total", by="api") == 1


async def test_publish_puts_pretty_json_on_one_line(api):
    """Frames are separated by line ends, so none may be within."""
    await api.call("POST", "/v1/publish", raw=b'{"channel":"room:r","type":"t","data":{\n  "a":\r\n1}}')
    (record,) = api.outbound(records.Message)
    assert b"\n" not in record.body
    assert b"\r" not in record.body


async def test_publish_is_idempotent_by_id(api):
    """inv 3: the same id in one channel is one message with one id; in another channel it is another."""
    body = {"channel": "room:r", "type": "t", "data": 1, "id": "order-7"}
    first = await api.call("POST", "/v1/publish", body)
    second = await api.call("POST", "/v1/publish", body | {"data": 2})
    other = await api.call("POST", "/v1/publish", body | {"channel": "room:s"})
    assert first == second != other
    messages = (await api.call("GET", "/v1/channels/room:r/messages"))["messages"]
    assert [(m["id"], m["data"]) for m in messages] == [(first["id"], 1)]
    assert len((await api.call("GET", "/v1/channels/room:s/messages"))["messages"]) == 1


async def test_publish_many(api):
    """Each message has its own result, in order; a wrong one does not spoil the others."""
    answer = await api.call(
        "POST",
        "/v1/publish",
        {
            "messages": [
                {"channel": "room:r", "type": "t", "data": 1},
                {"channel": "planet:mars", "type": "t"},
                {"channel": "room:r"},
                {"channel": "room:r", "type": "t", "data": 2},
                {"channel": "room:r", "type": "t", "data": "x" * 600_000},
            ]
        },
    )
    results = answer["results"]
    assert [r.get("error", {}).get("code") for r in results] == [
        None,
        "bad_channel",
        "bad_request",
        None,
        "too_large",
    ]
    messages = (await api.call("GET", "/v1/channels/room:r/messages"))["messages"]
    assert [(m["id"], m["data"]) for m in messages] == [(results[0]["id"], 1), (results[3]["id"], 2)]
    assert await api.call("POST", "/v1/publish", {"messages": []}) == {"results": []}
    await api.call("POST", "/v1/publish", {"messages": [{}] * 101}, status=400)


async def test_publish_when_the_outcome_is_unknown(api):
    """inv 1: a failure of the bus is "unknown, do it again", for one and for many."""
    api.producer.fails = Retry("no answer", after=2.5)
    one = {"channel": "room:r", "type": "t"}
    for body in (one, {"messages": [one, one]}):
        problem = await api.call("POST", "/v1/publish", body, status=503)
        assert problem["retry"] is True
        assert int(api.headers["Retry-After"]) >= 1
    mixed = await api.call("POST", "/v1/publish", {"messages": [one, {"channel": "x:y", "type": "t"}]})
    assert [r["error"]["retry"] for r in mixed["results"]] == [True, False]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"channel":"room:r"}',
        b'{"channel":"room:r","type":""}',
        b'{"channel":"room:r","type":5}',
        b'{"channel":"nonsense","type":"t"}',
        b'{"channel":"planet:mars","type":"t"}',
        b'{"messages":5}',
        b'{"channel":"room:r","type":"\xff"}',
    ],
)
async def test_bad_publishes(api, raw):
    """inv 11: each is a 400 that says what is wrong, and nothing is written."""
    problem = await api.call("POST", "/v1/publish", raw=raw, status=400)
    assert problem["detail"]
    assert api.records("outbound") == []


async def test_history(api):
    """Oldest first, bounds exclusive, the newest `limit` when there is none."""
    assert await api.call("GET", "/v1/channels/room:r/messages") == {
        "channel": "room:r",
        "epoch": "",
        "messages": [],
    }
    many = [{"channel": "room:r", "type": "t", "data": n} for n in range(1, 11)]
    await api.call("POST", "/v1/publish", {"messages": many})

    async def seqs(query: str) -> list[int]:
        answer = await api.call("GET", f"/v1/channels/room:r/messages?{query}")
        assert all(m["epoch"] == answer["epoch"] and m["channel"] == "room:r" for m in answer["messages"])
        return [m["seq"] for m in answer["messages"]]

    assert await seqs("limit=3") == [8, 9, 10]
    assert await seqs("after=4&limit=3") == [5, 6, 7]
    assert await seqs("before=4") == [1, 2, 3]
    assert await seqs("before=8&limit=2") == [6, 7]
    assert await seqs("after=2&before=5") == [3, 4]
    assert await seqs("after=10") == []
    for wrong in ("limit=0", "limit=1001", "limit=x", "after=-1", "before=1.5", "limit=1&limit=2"):
        await api.call("GET", f"/v1/channels/room:r/messages?{wrong}", status=400)
    problem = await api.call("GET", "/v1/channels/planet:mars/messages", status=400)
    assert problem["code"] == "bad_channel"


async def test_reads_of_history_are_bounded(api, monkeypatch):
    """inv 7: above `logic.history_reads` the API says when to come back; a handler's read waits its turn."""
    import asyncio

    read, go = api.log.read, asyncio.Event()

    async def slow(*arguments):
        await go.wait()
        return await read(*arguments)

    monkeypatch.setattr(api.log, "read", slow)
    path = "/v1/channels/room:r/messages"
    on = [asyncio.ensure_future(api.call("GET", path)) for _ in range(16)]
    while not api.api.reader.crowded:
        await asyncio.sleep(0.01)
    problem = await api.call("GET", path, status=503)
    assert problem["retry"] is True
    assert api.count("logic_history_refused_total") == 1
    waiting = asyncio.ensure_future(api.api.reader.history("room:r"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    go.set()
    await asyncio.gather(waiting, *on)
    assert api.count("logic_history_waits_total") == 1


async def test_an_answer_of_history_is_bounded_in_bytes(api, monkeypatch):
    """inv 7: what is large comes in several answers, from either end, with nothing left out."""
    from services.logic import reading

    monkeypatch.setattr(reading, "PAGE", 10)
    monkeypatch.setattr(reading, "HISTORY_BYTES", 20_000)
    many = [{"channel": "room:r", "type": "t", "data": "x" * 900} for _ in range(100)]
    await api.call("POST", "/v1/publish", {"messages": many})

    async def seqs(query: str) -> list[int]:
        answer = await api.call("GET", f"/v1/channels/room:r/messages?{query}")
        return [m["seq"] for m in answer["messages"]]

    assert await seqs("after=0") == list(range(1, 31))
    assert await seqs("after=30&before=35") == [31, 32, 33, 34]
    assert await seqs("limit=100") == list(range(71, 101))
    assert await seqs("before=71&limit=15") == list(range(56, 71))
    assert api.count("logic_history_cut_total") == 2
