"""The models that a server has: runs by name, each with its worker, renewed while it is trained."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import CheckpointError, ConfigError
from hornbook.infer.decoder import MOST_ROWS
from hornbook.infer.engine import Engine
from hornbook.infer.hidden_states import HiddenStates
from hornbook.language import msg
from hornbook.runs.engine import open_engine, open_hidden_states
from hornbook.runs.folder import RunFolder, open_run
from hornbook.serve.errors import ApiError, not_ready
from hornbook.serve.page import contents, contents_apart
from hornbook.serve.worker import Part, Work, Worker
from hornbook.text.forms import formed_text

# How often a run in training is looked at for newer weights.
RENEWAL_SECONDS = 2.0
# Positions of an embedding's text that are read between two steps of the generations.
EMBEDDED_TOKENS = 128


class ServedModel:
    """A run that is served under the name of its folder.

    While it has no checkpoint yet there is no worker. While it is trained, `renew` replaces the
    worker by one with the newest weights; what was begun ends with those it began with.
    """

    def __init__(self, folder: RunFolder, queue: int) -> None:
        self.folder = folder
        self.name = folder.path.resolve().name
        self.config = folder.settings()
        self.created = int(folder.config.stat().st_mtime)
        self.weights = ""  # what the checkpoints were when the worker's were read
        self.retired: list[Worker] = []
        self._queue = queue
        self._past: Counter[str] = Counter()
        self._worker: Worker | None = None
        self._hidden: HiddenStates | None = None
        self._embedding = asyncio.Lock()
        self._page: tuple[str, bytes] | None = None  # by the weights that it shows
        self._paging = asyncio.Lock()

    @property
    def finished(self) -> bool:
        """Whether training has ended."""
        return self.folder.result.exists()

    @property
    def which(self) -> Literal["best", "last"]:
        """Which weights are served: the best, or the last while there may be better ones."""
        return "best" if self.finished else "last"

    @property
    def workers(self) -> list[Worker]:
        """The worker and those that finish what they began."""
        return [*self.retired, *([self._worker] if self._worker else [])]

    @property
    def counts(self) -> Counter[str]:
        """What all its workers have counted."""
        return sum((worker.counts for worker in self.workers), self._past)

    @property
    def accepted(self) -> int:
        """Generations that run or wait."""
        return sum(worker.accepted for worker in self.workers)

    @property
    def worker(self) -> Worker:
        """The worker with the newest weights. Raises: ApiError while there are none."""
        if self._worker is None:
            raise self.no_checkpoint()
        return self._worker

    def no_checkpoint(self) -> ApiError:
        """The error while a run has nothing to serve."""
        return not_ready(f"{self.name} has no checkpoint yet: it is being trained")

    def checkpoints(self) -> str:
        """The names of the run's checkpoints: others when there are newer weights."""
        try:
            return " ".join(sorted(each.name for each in self.folder.checkpoints.iterdir()))
        except OSError:
            return ""

    async def renew(self) -> None:
        """Open the newest weights, unless they are open.

        Raises: CheckpointError when the run is damaged, or has no checkpoint though it has ended.
        """
        found = self.checkpoints()
        if found == self.weights:
            return
        try:
            engine = await asyncio.to_thread(
                open_engine, self.folder.path, which=self.which, rows=MOST_ROWS
            )
        except CheckpointError:
            if self.finished or self._worker is not None:
                raise
            return
        if self._worker is not None:
            self.retired.append(self._worker)
        self._worker = Worker(engine, self.name, self._queue)
        self.weights, self._hidden = found, None

    def retire(self) -> None:
        """Stop the workers that have been replaced and have nothing left to do."""
        for worker in [each for each in self.retired if not each.accepted]:
            worker.close()
            self.retired.remove(worker)
            self._past += worker.counts

    async def encode(self, text: str, unknown: str = "error") -> list[int]:
        """The tokens of a prompt, in the form that the run's own text has.

        Raises: UnknownCharacterError.
        """
        engine = self.worker.engine
        return await asyncio.to_thread(
            lambda: engine.encode(formed_text(text, self.config.data), unknown)
        )

    async def page(self) -> bytes:
        """What the page needs to run the model in a browser: see `serve.page.contents`.

        Raises: ApiError; CheckpointError.
        """
        if self._worker is None:
            raise self.no_checkpoint()
        async with self._paging:
            if self._page is None or self._page[0] != self.weights:
                weights = self.weights
                # A run in training is looked at again and again: torch is imported once, then.
                here = "torch" in sys.modules or not self.finished
                make = contents if here else contents_apart
                self._page = (weights, await asyncio.to_thread(make, self.folder, self.which))
            return self._page[1]

    def submit(self, parts: list[Part]) -> Work:
        """Hand generations to the worker. Raises: ApiError when it is full or not there."""
        return self.worker.submit(parts)

    async def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The mean of the last hidden states of a text, [C].

        Raises: ApiError for a model that has none.
        """
        worker = self.worker
        async with self._embedding:  # the hidden states are those of one text at a time
            if self._hidden is None:
                self._hidden = await asyncio.to_thread(
                    open_hidden_states, self.folder.path, which=self.which
                )
            hidden = self._hidden
            if hidden is None:
                raise ApiError(
                    400,
                    f"{self.name} is a {self.config.model.kind} model, which has no hidden states: "
                    "embeddings need a gpt",
                    param="model",
                )
            if len(tokens) > hidden.context_size:
                raise ApiError(
                    400,
                    f"expected at most {hidden.context_size:,} tokens, the context of {self.name}; "
                    f"got {len(tokens):,}",
                    param="input",
                )
            sum_C = np.zeros(hidden.width, np.float64)
            for start in range(0, len(tokens), EMBEDDED_TOKENS):
                piece = tokens[start : start + EMBEDDED_TOKENS]
                states_TC = await worker.call(partial(read_states, hidden, piece, start))
                sum_C += states_TC.sum(axis=0, dtype=np.float64)
        return (sum_C / len(tokens)).astype(np.float32)


def read_states(
    hidden: HiddenStates, tokens: Sequence[int], start: int, _engine: Engine
) -> NDArray[np.float32]:
    """The hidden states of a piece of a text: a function of the engine, as `Worker.call` runs."""
    return hidden.read(tokens, start)


class Models:
    """The served models by name; names are looked up here and never become paths."""

    def __init__(self, runs: Sequence[str | os.PathLike[str]], queue: int) -> None:
        self._by_name: dict[str, ServedModel] = {}
        for run in runs:
            model = ServedModel(open_run(run), queue)
            if model.name in self._by_name:
                other = self._by_name[model.name].folder.path
                raise ConfigError(
                    msg(
                        "{run} and {other} have the same name, by which clients choose a model; "
                        "rename one of the folders",
                        run=Path(run),
                        other=other,
                    )
                )
            self._by_name[model.name] = model

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def find(self, name: str) -> ServedModel:
        """The model of a name. Raises: ApiError with the names there are."""
        model = self._by_name.get(name)
        if model is None:
            shown = ", ".join(self._by_name)
            raise ApiError(
                404,
                f"there is no model {name[:100]!r}; there are: {shown}",
                param="model",
                code="model_not_found",
            )
        return model

    async def open(self) -> None:
        """Open all models. Raises: CheckpointError, ConfigError."""
        for model in self:
            await model.renew()

    async def keep_new(self, report: Callable[[str], None]) -> None:
        """Renew the models that are being trained, until cancelled; `report` gets each failure."""
        watched = [model for model in self if not model.finished]
        while watched:
            await asyncio.sleep(RENEWAL_SECONDS)
            for model in list(watched):
                ended = model.finished
                try:
                    await model.renew()
                except CheckpointError as error:  # a checkpoint that was removed as it was read
                    report(msg("{name}: {error}", name=model.name, error=error))
                model.retire()
                if ended and not model.retired:
                    watched.remove(model)

    async def close(self) -> None:
        """Stop all workers, each after its current step: a decoder that runs must not be freed."""
        workers = [worker for model in self for worker in model.workers]
        for worker in workers:
            worker.close()
        for worker in workers:
            await asyncio.to_thread(worker.join)
