"""A thread that runs one model's engine, while the event loop talks to the clients.

The thread owns the engine. The loop hands it requests, which join the engine's batch between two
steps, and it hands pieces of text back. While decoder.c computes, the loop can run.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from hornbook.errors import HornbookError, reason
from hornbook.infer.engine import Engine, Stream
from hornbook.infer.sampling import LogProbs
from hornbook.serve.errors import ApiError, busy, not_ready

Found = TypeVar("Found")

# Writing a piece of text to a client takes the event loop about 0.1 ms, in which the engine's
# thread cannot run Python. So a stream is written to at most every 5 ms, and 64 of them every
# 128 ms each: then writing takes a twentieth of a core.
LEAST_SECONDS, SECONDS_A_STREAM, MOST_SECONDS = 0.005, 0.002, 0.25


class Piece(NamedTuple):
    """Some text of one generation, and why it ended if it has: "stop" or "length"."""

    part: int
    text: str
    scores: Sequence[tuple[int, LogProbs]] = ()
    finish: str | None = None


@dataclass(slots=True, eq=False)
class Part:
    """One generation of a request, on the worker's side."""

    number: int
    prompt: Sequence[int]
    settings: dict[str, Any]
    stream: Stream | None = None
    due: float = 0.0  # when a piece may be sent next
    scored: int = 0  # how many of the stream's scores have been sent


@dataclass(slots=True, eq=False)
class Work:
    """A request's generations: an asynchronous iterator over the pieces of all of them."""

    worker: "Worker"
    parts: list[Part]
    generated: int = 0
    started: float = field(default_factory=time.monotonic)
    closed: bool = False
    _unfinished: int = 0
    _pieces: deque[Piece | Exception] = field(default_factory=deque)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._unfinished = len(self.parts)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while self._unfinished:
            while not self._pieces:
                self._ready.clear()
                await self._ready.wait()
            piece = self._pieces.popleft()
            if isinstance(piece, Exception):
                raise piece
            self._unfinished -= piece.finish is not None
            yield piece

    def deliver(self, piece: Piece | Exception) -> None:
        """Add a piece, or the error that ended the work; called in the event loop."""
        self._pieces.append(piece)
        self._ready.set()

    def close(self) -> None:
        """End what is unfinished; nothing more is read or drawn for it."""
        if not self.closed:
            self.closed = True
            self.worker.release(self)


class Worker(threading.Thread):
    """Runs an engine's steps for up to `queue` generations beside those that have a row."""

    def __init__(self, engine: Engine, name: str, queue: int) -> None:
        super().__init__(name=f"hornbook {name}", daemon=True)
        self.engine = engine
        self.capacity = engine.decoder.rows + queue
        self.counts: Counter[str] = Counter()
        self.accepted = 0  # generations that were accepted and have not been given up; the loop's
        self._loop = asyncio.get_running_loop()
        self._seconds_a_generation = 1.0
        self._inbox: deque[Callable[[], None]] = deque()
        self._awake = threading.Condition()
        self._closing = False
        self._active: dict[Part, Work] = {}
        self.start()

    # ---- called in the event loop ----

    def submit(self, parts: list[Part]) -> Work:
        """Accept a request's generations; the caller closes the work in any case.

        Raises: ApiError when too many wait already.
        """
        if self._closing:
            raise not_ready("the model is being replaced or the server is stopping; try again")
        if self.accepted + len(parts) > self.capacity:
            turns = self.accepted / self.engine.decoder.rows
            raise busy(
                f"{self.accepted} generations are running or waiting, at most {self.capacity} may; "
                "try again later",
                turns * self._seconds_a_generation,
            )
        work = Work(self, parts)
        self.accepted += len(parts)
        self._send(lambda: self._begin(work))
        return work

    def release(self, work: Work) -> None:
        """Give up a work's generations, finished or not."""
        self.accepted -= len(work.parts)
        spent = time.monotonic() - work.started
        self._seconds_a_generation += 0.1 * (spent - self._seconds_a_generation)
        self._send(lambda: self._end(work))

    async def call(self, function: Callable[[Engine], Found]) -> Found:
        """The result of a function of the engine, run between two steps."""
        done: Future[Found] = Future()

        def run() -> None:
            try:
                done.set_result(function(self.engine))
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                done.set_exception(error)

        self._send(run)
        return await asyncio.wrap_future(done)

    @property
    def waiting(self) -> int:
        """Generations without a row of the decoder."""
        return max(0, self.accepted - self.engine.decoder.rows)

    def close(self) -> None:
        """Stop the thread after its current step; unfinished work ends with an error."""
        self._closing = True
        self._send(lambda: None)

    # ---- the thread ----

    def _send(self, action: Callable[[], None]) -> None:
        with self._awake:
            self._inbox.append(action)
            self._awake.notify()

    def run(self) -> None:
        """Alternate between what the loop has sent and the engine's steps."""
        while not self._closing:
            with self._awake:
                while not self._inbox and not self._active:
                    self._awake.wait()
            while self._inbox:
                self._inbox.popleft()()
            if self._active:
                self._step()
        self._fail(not_ready("the server is stopping"))

    def _begin(self, work: Work) -> None:
        if work.closed:
            return
        try:
            for part in work.parts:
                part.stream = self.engine.stream(part.prompt, **part.settings)
                self._active[part] = work
                self.counts["prompt_tokens"] += len(part.prompt)
        except Exception as error:  # noqa: BLE001 - it belongs to this request alone
            self._end(work)
            self._post([(work, error)])

    def _end(self, work: Work) -> None:
        for part in work.parts:
            if part.stream is not None:
                part.stream.close()
            self._active.pop(part, None)

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception as error:  # noqa: BLE001 - every request gets it, and the thread goes on
            if not isinstance(error, HornbookError):
                error = ApiError(500, f"a bug in hornbook: {type(error).__name__}: {reason(error)}")
            self._fail(error)
            return
        self.counts["steps"] += 1
        now = time.monotonic()
        pause = min(MOST_SECONDS, max(LEAST_SECONDS, SECONDS_A_STREAM * len(self._active)))
        ready: list[tuple[Work, Piece | Exception]] = []
        for part, work in list(self._active.items()):
            stream = part.stream
            if stream is None or (now < part.due and not stream.finished):
                continue
            finished = stream.finished
            text, scores = stream.take(), stream.scores[part.scored :]
            if text or scores or finished:
                part.scored += len(scores)
                finish = None if not finished else "stop" if stream.stopped else "length"
                ready.append((work, Piece(part.number, text, scores, finish)))
                part.due = now + pause
            if finished:
                del self._active[part]
                work.generated += stream.drawn
                self.counts["generated_tokens"] += stream.drawn
        if ready:
            self._post(ready)

    def _fail(self, error: Exception) -> None:
        self._post([(work, error) for work in set(self._active.values())])
        self._active.clear()
        self.engine.clear()

    def _post(self, ready: Sequence[tuple[Work, Piece | Exception]]) -> None:
        def deliver() -> None:
            for work, piece in ready:
                work.deliver(piece)

        with suppress(RuntimeError):  # the loop has ended, and its clients with it
            self._loop.call_soon_threadsafe(deliver)
