"""A deterministic event loop: simulated time, no I/O, no threads, and processes that stop, stall and die.

Every callback belongs to a process, by the context it was scheduled in. Within a process callbacks run in the
order in which they were scheduled, as asyncio promises; which process has the next turn is drawn from the
seed. When nobody has anything to do, time jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

T = TypeVar("T")

MOST_TURNS: Final = 5_000_000
"""Callbacks of one run, at most: beyond it, something goes round in circles."""


class Livelock(Exception):
    """Too many callbacks for one run."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set, but the run is not over."""


_Base: Any = asyncio.AbstractEventLoop


class Process:
    """What a process is to the loop. A dead one never runs again; a paused one keeps what is due."""

    __slots__ = ("context", "dead", "index", "name", "paused", "queued", "ready")

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.ready: deque[Handle] = deque()
        self.queued = False  # among those that the loop may choose from
        self.paused = False
        self.dead = False
        self.context = contextvars.Context()
        self.context.run(_process.set, self)

    def __repr__(self) -> str:
        return self.name


_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current() -> Process:
    """Return the process whose code is running."""
    return _process.get()


class Handle:
    """A scheduled call, with what asyncio expects of its own handles."""

    __slots__ = ("args", "call", "called_off", "context", "process", "when_")

    def __init__(
        self, call: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context, when: float
    ) -> None:
        self.call = call
        self.args = args
        self.context = context
        self.process = context[_process]
        self.when_ = when
        self.called_off = False

    def cancel(self) -> None:
        self.called_off = True
        self.args = ()

    def cancelled(self) -> bool:
        return self.called_off

    def when(self) -> float:
        return self.when_


class Task(asyncio.Task[Any]):
    """A task whose place in a set follows from the run, not from its address."""

    def __init__(self, number: int, coro: Any, **rest: Any) -> None:
        self.number = number  # first: whoever registers it asks for its hash
        context = rest.get("context")
        self.process = current() if context is None else context[_process]
        super().__init__(coro, **rest)

    @property
    def failed(self) -> bool:
        """Whether it ended with an exception that nobody has looked at."""
        return self.done() and not self.cancelled() and self._log_traceback

    def __hash__(self) -> int:
        return self.number


class SimLoop(_Base):  # type: ignore[misc]
    """See the module. `on_error` gets what asyncio would log: exceptions that nobody handled.

    What it lacks of a loop is I/O, threads and subprocesses: there are none in a simulation.
    """

    def __init__(self, random: Random, on_error: Callable[[dict[str, Any]], None]) -> None:
        self.now = 0.0
        self.turns = 0
        self.trace = 0  # a running hash over who ran when
        self.world = Process("world", 0)
        self.graveyard: list[object] = []
        self._random = random
        self._on_error = on_error
        self._runnable: list[Process] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = itertools.count()
        self._numbers = itertools.count(1)
        self._processes = itertools.count(1)
        self._running = False
        self._closed = False
        self._tasks: list[Task] = []
        self._failed: list[Task] = []

    # processes

    def process(self, name: str) -> Process:
        """Make a process."""
        return Process(name, next(self._processes))

    def kill(self, process: Process) -> None:
        """End a process as SIGKILL does: none of its code runs again, not even its `finally`."""
        process.dead = True
        process.ready.clear()

    def pause(self, process: Process) -> None:
        """Stop a process as SIGSTOP does."""
        process.paused = True

    def resume(self, process: Process) -> None:
        """Let a process go on with what became due meanwhile."""
        process.paused = False
        if process.ready and not process.queued:
            process.queued = True
            self._runnable.append(process)

    def spawn(self, process: Process, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run a coroutine as that process's."""
        task: asyncio.Task[T] = self.create_task(work, name=name or None, context=process.context)
        return task

    def call_in(self, process: Process, call: Callable[..., object], *args: Any) -> None:
        """Make a call as that process's, soon."""
        self.call_soon(call, *args, context=process.context)

    # what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context, self.now)
        self._enqueue(handle)
        return handle

    def _enqueue(self, handle: Handle) -> None:
        process = handle.process
        if process.dead:
            return
        process.ready.append(handle)
        if not process.queued and not process.paused:
            process.queued = True
            self._runnable.append(process)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self.call_at(self.now + max(delay, 0.0), callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context, when)
        heapq.heappush(self._timers, (when, next(self._count), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> Any:
        # A task has a copy of its maker's context, so what it sets is its own; the process is in it.
        task = Task(next(self._numbers), coro, loop=self, name=name, context=context and context.copy())
        if task.number % 4096 == 0:
            self.look_at_tasks()
        self._tasks.append(task)
        return task

    def look_at_tasks(self) -> None:
        """Forget tasks that are done, but for those that failed and that nobody has asked how they ended."""
        self._failed += [task for task in self._tasks if task.failed and not task.process.dead]
        self._tasks = [task for task in self._tasks if not task.done()]

    def _report_tasks(self) -> None:
        """Report who failed a while ago, and still nobody has asked."""
        for task in self._failed:
            if task.failed and not task.process.dead:
                name = getattr(task.get_coro(), "__qualname__", "")
                self._on_error({"message": f"the task {name} failed", "exception": task.exception()})

    def run_until_complete(self, future: Any) -> Any:
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._running = True
        try:
            task = self.spawn(self.world, future)
            while not task.done():
                self._turn()
            return task.result()
        finally:
            self._running = False
            asyncio._set_running_loop(previous)

    def _turn(self) -> None:
        timers, now = self._timers, self.now
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if not handle.called_off:
                self._enqueue(handle)
        runnable = self._runnable
        if not runnable:
            while timers and (timers[0][2].called_off or timers[0][2].process.dead):
                heapq.heappop(timers)
            if not timers:
                raise Deadlock("nothing is ready, and no timer is set")
            self.now = timers[0][0]
            return
        index = self._random.randrange(len(runnable)) if len(runnable) > 1 else 0
        process = runnable[index]
        runnable[index] = runnable[-1]
        runnable.pop()
        process.queued = False
        if process.paused or process.dead:
            return
        batch, process.ready = process.ready, deque()
        self.turns += len(batch)
        if self.turns > MOST_TURNS:
            raise Livelock(f"{self.turns} callbacks in {self.now:.1f} simulated seconds")
        self.trace = hash((self.trace, process.index, len(batch), now))
        for handle in batch:
            if handle.called_off or handle.process.dead:
                continue
            try:
                handle.context.run(handle.call, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as any loop: told, and the others go on
                self._on_error({"message": f"a callback failed: {handle.call!r}", "exception": error})

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        task = context.get("task", context.get("future"))
        if not self._closed and not (isinstance(task, Task) and task.process.dead):
            self._on_error(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Forget everything; what is left of tasks runs no more."""
        self._report_tasks()
        self._closed = True
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._timers.clear()
        self._runnable.clear()


class SimClock:
    """The clock of one process. `skew` is how far (ms) its idea of the time of day is off."""

    START_MS: Final = 1_700_000_000_000

    def __init__(self, loop: SimLoop, skew: int = 0) -> None:
        self._loop = loop
        self.skew = skew

    def now_ms(self) -> int:
        return self.START_MS + self.skew + int(self._loop.now * 1000)

    def monotonic(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        return self._loop.call_later(seconds, call)
