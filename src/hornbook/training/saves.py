"""Checkpoints on their way to the disk, by a thread of their own while training goes on."""

from collections.abc import Callable, Mapping
from threading import Thread
from typing import Self

from torch import Tensor

from hornbook.kernels.runtime import signals_held

Kind = tuple[int, object, object, object]


class Saves:
    """What a run writes of its state: at once, or in the `background`, of one step at a time.

    In the background a step waits only for a copy of its tensors. The thread writes, hashes and
    syncs, for which Python's lock is not needed. What is added first is on the disk first, and
    nothing is written after a failure, so that checkpoints come as if each had been waited for.
    """

    def __init__(self, *, background: bool = False) -> None:
        self.background = background
        self.step = 0  # whose state is being written
        self._threads: list[Thread] = []
        self._copies: dict[Kind, tuple[Tensor, Tensor]] = {}
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    @property
    def busy(self) -> bool:
        """Whether anything has been added that was not waited for."""
        return bool(self._threads)

    def begin(self, step: int) -> None:
        """From now on add what is of this step. Raises: what went wrong with an earlier one."""
        if step != self.step:
            self.finish()
        self.step = step

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These tensors as they are now, in the memory of the CPU; each is copied once a step."""
        if not self.background:
            return dict(tensors)
        return {name: self._copy(each) for name, each in tensors.items()}

    def _copy(self, tensor: Tensor) -> Tensor:
        same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if same not in self._copies:
            # With the tensor itself: freed, its memory could become another one's.
            self._copies[same] = tensor, tensor.detach().to("cpu", copy=True)
        return self._copies[same][1]

    def add(
        self, write: Callable[[], object], instead: Callable[[], object] = lambda: None
    ) -> None:
        """Write something of this step's state; do something else `instead` after a failure.

        Raises: what `write` does, unless it is in the background.
        """
        if not self.background:
            write()
            return
        before = self._threads[-1] if self._threads else None
        thread = Thread(target=self._run, args=(write, instead, before), name="save")
        self._threads.append(thread)
        thread.start()

    def _run(
        self, write: Callable[[], object], instead: Callable[[], object], before: Thread | None
    ) -> None:
        if before:
            before.join()
        try:
            if self._error is None:
                write()
            else:
                instead()
        except BaseException as error:  # noqa: BLE001 - raised where training is
            self._error = self._error or error

    def check(self) -> None:
        """Forget what is written. Raises: what went wrong, if anything has by now."""
        if self._threads and not any(thread.is_alive() for thread in self._threads):
            self.finish()

    def finish(self) -> None:
        """Wait until all is written; signals wait too. Raises: what went wrong."""
        error = self.wait()
        if error:
            raise error

    def wait(self) -> BaseException | None:
        """Wait until all is written, or has failed; returns what went wrong."""
        with signals_held():
            for thread in self._threads:
                thread.join()
        self._threads.clear()
        self._copies.clear()
        error, self._error = self._error, None
        return error
