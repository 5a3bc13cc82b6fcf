"""Ending what aiokafka runs, whether Kafka answers or not: its own `stop` hangs in an outage.

Tasks come first, connections last, because a task may just have opened one; they are cut, not flushed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from holdfast.tasks import cancelled, take_note

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

_SECONDS: Final = 5.0


def careful(client: Any) -> None:
    """Let an aiokafka client that is cancelled while it starts leave no connection behind.

    The one by which it first asks for the cluster is known to nobody but the coroutine that asks.
    """
    bootstrap = client.bootstrap

    async def asking() -> None:
        coroutine = bootstrap()
        task = asyncio.create_task(coroutine, name="kafka client's start")
        task.add_done_callback(take_note)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            frame = coroutine.cr_frame
            connection = frame.f_locals.get("bootstrap_conn") if frame is not None else None
            await cancelled([task])
            if connection is not None:
                connection.close()
            raise

    client.bootstrap = asking


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Close an aiokafka consumer, as far as that is possible in a few seconds.

    Its own `stop` hangs in an outage, and is cancelled by a task that it cancelled before it began.
    """
    ending = asyncio.create_task(consumer.stop(), name="kafka consumer's end")
    await asyncio.wait([ending], timeout=_SECONDS)
    if ending.done() and not ending.cancelled() and ending.exception() is None:
        return
    await cancelled([ending])
    await end(consumer)


async def end(consumer: Any) -> None:
    """Give up an aiokafka consumer without a group whose `stop` failed, or took too long."""
    fetcher = consumer._fetcher
    tasks = [getattr(consumer._coordinator, "_reset_committed_task", None)]
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
    await cut(consumer._client, *tasks)


async def cut(client: Any, *tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what uses an aiokafka client, and cut its connections. Who waits for an answer is told so."""
    await cancelled([*tasks, client._sync_task])
    ends = []
    for connection in list(client._conns.values()):
        writer = connection._writer
        end = connection.close()
        if writer is not None:
            writer.transport.abort()
            ends.append(end)
    client._conns.clear()
    if ends:
        await asyncio.wait(ends, timeout=_SECONDS)
