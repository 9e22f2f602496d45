"""Calls to the outside world that are under way: a thread with an event loop, and a queue of what came back.

The operator's own thread never waits for an answer. It hands rows over and later takes outcomes; how many
calls are under way at once is bounded by a semaphore in the loop, and by the operator, which hands over
no further rows while too many wait.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from millstream.rows import Row
from millstream.specs.on_error import ErrorPolicy

_THREADS: Final = 64


class Outcome(NamedTuple):
    """How one call ended.

    Attributes:
        token: what the caller named the row by.
        error: what the last attempt raised; None: ``value`` is the answer.
        retries: how often the call was made again.
    """

    token: tuple[int, int]
    value: Any
    error: BaseException | None
    retries: int


class Calls:
    """Args:
    function: of one row; a coroutine function is awaited, any other runs in a thread.
    capacity: how many calls may be under way at once.
    timeout_s: for each attempt.
    policy: how often a failed call is made again, and after which pauses.
    """

    def __init__(self, function: Callable[[Row], Any], *, capacity: int, timeout_s: float, policy: ErrorPolicy) -> None:
        self._function = function
        self._awaits = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._capacity, self._timeout_s, self._policy = capacity, timeout_s, policy
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Semaphore(capacity)
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = None if self._awaits else ThreadPoolExecutor(min(capacity, _THREADS), "map_async")
        self._thread = threading.Thread(target=self._loop.run_forever, name="map_async", daemon=True)
        self._thread.start()

    def start(self, tokens: Sequence[tuple[int, int]], rows: Sequence[Row]) -> None:
        self._loop.call_soon_threadsafe(self._start, tokens, rows)

    def finished(self, wait_s: float) -> list[Outcome]:
        """The calls that have ended since the last look; waits for the first of them, but not longer than told."""
        outcomes: list[Outcome] = []
        try:
            outcomes.append(self._done.get(timeout=wait_s) if wait_s else self._done.get_nowait())
            while True:
                outcomes.append(self._done.get_nowait())
        except queue.Empty:
            return outcomes

    def close(self) -> None:
        """Give up what is under way."""

        async def stop() -> None:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop)
        self._thread.join(1.0)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # --- in the loop's thread ---

    def _start(self, tokens: Sequence[tuple[int, int]], rows: Sequence[Row]) -> None:
        for token, row in zip(tokens, rows, strict=True):
            task = self._loop.create_task(self._call(token, row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, token: tuple[int, int], row: Row) -> None:
        async with self._room:
            for retry in range(self._policy.retries + 1):
                if retry:
                    await asyncio.sleep(self._policy.pause_us(retry - 1) / 1e6)
                try:
                    async with asyncio.timeout(self._timeout_s):
                        value = await self._answer(row)
                    self._done.put(Outcome(token, value, None, retry))
                    return
                except (Exception, SystemExit) as error:
                    failure: BaseException = error
            if isinstance(failure, TimeoutError) and not str(failure):
                failure = TimeoutError(f"no answer within {self._timeout_s:g} s")
            self._done.put(Outcome(token, None, failure, self._policy.retries))

    async def _answer(self, row: Row) -> Any:
        if self._awaits:
            return await self._function(row)
        return await self._loop.run_in_executor(self._threads, self._function, row)
