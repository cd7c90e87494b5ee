"""The engine's thread: crowds, queues, aborts and failures."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving import Local, events, process, serving

import hornbook as hb
from hornbook.errors import CheckpointError
from hornbook.infer.engine import Engine
from hornbook.serve.errors import ApiError
from hornbook.serve.server import Options
from hornbook.serve.worker import Part, Work, Worker


class Stepping:
    """A decoder that reads only as often as it is allowed to."""

    context_size = 600
    vocab_size = 3

    def __init__(self, rows: int = 2, value: float = 0.0) -> None:
        self.rows = rows
        self.read: list[int] = []  # new tokens of each call
        self.allowed = threading.Semaphore(0)
        self._value = value

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> np.ndarray:
        self.allowed.acquire()
        self.read.append(sum(map(len, tokens)))
        return np.full((len(rows), self.vocab_size), self._value, np.float32)

    def copy(self, source: int, row: int, length: int) -> None:
        pass


def part(number: int = 0, prompt: Sequence[int] = (0,), limit: int = 1000) -> Part:
    return Part(number, prompt, {"max_new_tokens": limit, "seed": number})


async def pieces(work: Work) -> str:
    return "".join([piece.text async for piece in work])


async def steps(decoder: Stepping, count: int) -> None:
    """Allow so many calls of the decoder, and wait for them."""
    target = len(decoder.read) + count
    decoder.allowed.release(count)
    while len(decoder.read) < target:
        await asyncio.sleep(0.001)


def run(decoder: Stepping, test: object, queue: int = 4) -> None:
    """Run a test of a worker, and end the worker."""

    async def whole() -> None:
        worker = Worker(Engine(decoder, hb.CharTokenizer.from_text("abc")), "abc", queue)
        try:
            await test(worker)
        finally:
            worker.close()
            decoder.allowed.release(1000)
            await asyncio.to_thread(worker.join)

    asyncio.run(whole())


@pytest.mark.parametrize("state", ["running", "queued", "prefilling"])
def test_a_dropped_request_takes_no_more_reading(state: str) -> None:
    decoder = Stepping(rows=1)

    async def test(worker: Worker) -> None:
        first = worker.submit([part(0, limit=3 if state == "queued" else 1000)])
        if state == "queued":
            work = worker.submit([part(1, prompt=[1] * 200)])
            work.close()
            decoder.allowed.release(10)
            await pieces(first)
            assert decoder.read == [1, 1, 1]
            return
        if state == "prefilling":
            first.close()
            first = worker.submit([part(1, prompt=[1] * 500)])
        await steps(decoder, 2)
        first.close()
        before = len(decoder.read)
        decoder.allowed.release(10)
        await asyncio.sleep(0.1)
        assert len(decoder.read) <= before + 2
        assert not len(worker.engine._batch)
        assert worker.accepted == 0

    run(decoder, test)


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    decoder = Stepping(rows=2)

    async def test(worker: Worker) -> None:
        works = [worker.submit([part(), part(1)]) for _ in range(3)]
        with pytest.raises(ApiError) as caught:
            worker.submit([part()])
        assert caught.value.status == 429
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
        works[0].close()
        works[0].close()
        assert worker.submit([part(), part(1)]).parts
        assert worker.waiting == 4

    run(decoder, test)


def test_prompts_are_read_in_pieces_beside_those_who_write() -> None:
    decoder = Stepping(rows=2)

    async def test(worker: Worker) -> None:
        worker.submit([part()])
        await steps(decoder, 2)
        worker.submit([part(1, prompt=[1] * 300)])
        await steps(decoder, 5)
        # The step that had begun, three pieces beside a row that draws, and both drawing.
        assert sum(decoder.read) >= 300
        assert max(decoder.read) == 129

    run(decoder, test)


def test_a_damaged_model_fails_its_requests_and_the_thread_goes_on() -> None:
    decoder = Stepping(value=float("nan"))
    decoder.allowed.release(100)

    async def test(worker: Worker) -> None:
        for _ in range(2):
            work = worker.submit([part()])
            with pytest.raises(CheckpointError, match="not numbers"):
                await pieces(work)
            work.close()
        assert worker.accepted == 0

    run(decoder, test)


def test_a_stopping_worker_ends_its_requests() -> None:
    decoder = Stepping()

    async def test(worker: Worker) -> None:
        work = worker.submit([part()])
        worker.close()
        decoder.allowed.release(2)
        with pytest.raises(ApiError, match="stopping"):
            await pieces(work)
        with pytest.raises(ApiError, match="stopping"):
            worker.submit([part()])

    run(decoder, test)


def test_a_crowd_gets_what_each_gets_alone(local: Local) -> None:
    requests = [
        {"prompt": "to be, or not " * (number % 4) + "the ", "seed": number, "max_tokens": 60,
         "temperature": 0.5 + number / 50, "model": ("gpt", "mixture")[number % 2],
         "unknown": "skip", "stream": number % 3 == 0}
        for number in range(40)
    ]  # fmt: skip

    def text(request: dict[str, object]) -> str:
        body = local.complete(**request).body
        found = events(body) if request["stream"] else [json.loads(body)]
        return "".join(each["choices"][0]["text"] for each in found)

    alone = [text(request) for request in requests]
    with ThreadPoolExecutor(40) as crowd:
        assert list(crowd.map(text, requests)) == alone


def test_two_hundred_streams_end_right_or_are_told_to_wait(runs: list[Path]) -> None:
    with serving(runs[:1], Options(queue=60)) as server:
        answered = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal answered
            while not ended.is_set():
                assert server.get("/health").status == 200
                answered += 1

        def stream(seed: int) -> tuple[int, str]:
            answer = server.complete(seed=seed, stream=True, max_tokens=300)
            if answer.status != 200:
                assert answer.status in (429, 503)
                assert 1 <= int(answer.headers["retry-after"]) <= 60
                return answer.status, ""
            found = events(answer.body)
            return 200, "".join(each["choices"][0]["text"] for each in found)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(200) as crowd:
            found = list(crowd.map(stream, range(200)))
        ended.set()
        watcher.join()
        assert answered > 10, "the event loop is free while the engine's thread works"
        statuses = [status for status, _ in found]
        assert statuses.count(200) >= 124
        for seed in (0, statuses.index(200), 199):
            if found[seed][0] == 200:
                assert (
                    found[seed][1]
                    == server.complete(seed=seed, max_tokens=300).json["choices"][0]["text"]
                )
        assert server.figure("generations") == 0


def test_ten_rounds_of_two_hundred_streams_leave_the_memory_level(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    if not (root / "benchmarks").is_dir():
        pytest.skip("the load script is only in a clone")
    monkeypatch.syspath_prepend(str(root))
    from benchmarks.load import health_watched, streams
    from benchmarks.serve import resident_mib

    with process(runs[:1], tmp_path, "--queue", "60") as server:
        memory = []
        with health_watched(server.port) as seconds:
            for _ in range(10):
                asked = [
                    {"model": "gpt", "prompt": "to ", "seed": seed, "max_tokens": 20 + seed % 9}
                    for seed in range(200)
                ]
                answers = streams(server.port, asked, seconds=60)
                for request, answer in zip(asked, answers, strict=True):
                    if answer.status == 200:
                        assert answer.finished
                        assert answer.tokens == request["max_tokens"]
                    else:
                        assert answer.status == 429
                        assert answer.retry_after
                memory.append(resident_mib(server.process.pid))
        assert len(seconds) > 10, "/health answers beside the streams"
        assert server.figure("generations") == 0
        if memory[0]:
            # Python's own arenas and the decoder's rows are filled by then.
            assert max(memory[5:]) < max(memory[:5]) + 4, memory
        assert server.stop() == 0


def test_a_thousand_aborts_leave_nothing(runs: list[Path]) -> None:
    descriptors = Path("/proc/self/fd")
    with serving(runs[:1]) as server:
        server.complete()
        before = len(list(descriptors.iterdir()))
        (worker,) = server.models.find("gpt").workers
        for number in range(1000):
            with server.stream(seed=number) as connection:
                if number % 2:
                    connection.recv(100)
        end = time.monotonic() + 20
        while server.figure("generations") or len(worker.engine._batch):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not worker._active
        assert not worker._inbox
        assert len(worker.engine._batch._free) == worker.engine.decoder.rows
        while server.server.server_state.tasks:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert len(list(descriptors.iterdir())) <= before + 2
        assert server.complete().status == 200
