"""Notes that ranks leave for each other in torchrun's store: no collectives.

A collective has one time limit, and all ranks must call it in one order. A note can wait as long as
its reader likes, and a thread beside the training may leave it: the store is one server, and each
operation one message.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from hornbook.errors import RankError, reason
from hornbook.language import msg

# How often rank 0 gives a sign of life while it works alone, and how often the others look.
BEAT_SECONDS, LOOK_SECONDS = 1.0, 0.1
# Without so many of them, a rank that was sent a signal takes rank 0 for dead: torchrun stops the
# others of a rank that died by SIGTERM.
FEW_BEATS = 5
# How often rank 0 looks whether all have written their part of a checkpoint.
COLLECT_SECONDS = 0.01


class Notes:
    """The notes of one rank, and those that it reads. Raises: RuntimeError from a lost store."""

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.rests = 0
        self._awake = threading.Event()
        self._heart: threading.Thread | None = None

    def read(self, name: str) -> bytes:
        """A note; empty where there is none."""
        return self.store.get(name) if self.store.check([name]) else b""

    def leave(self, about: str, facts: Mapping[str, Any]) -> None:
        """Leave this rank's note for `collect`, in place of its last; the last one is `done`."""
        self.store.set(f"{about}/{self.rank}", json.dumps(facts))

    def collect(self, about: str, seconds: float, lost: Callable[[], bool]) -> list[dict[str, Any]]:
        """The last note of each rank.

        Raises: RankError where one leaves none for longer than `seconds`, or any is `lost`.
        """
        found = []
        for rank in range(self.world):
            name, note, since = f"{about}/{rank}", b"{}", time.monotonic()
            while not (facts := json.loads(note)).get("done"):
                try:
                    last = self.read(name)
                except RuntimeError as error:
                    raise RankError(
                        msg("rank 0 lost its store of notes: {why}", why=reason(error))
                    ) from None
                if last and last != note:
                    note, since = last, time.monotonic()
                elif lost() or time.monotonic() - since > seconds:
                    raise RankError(
                        msg(
                            "rank 0 lost rank {rank} while it waited for: {about}",
                            rank=rank,
                            about=about,
                        )
                    )
                else:
                    time.sleep(COLLECT_SECONDS)
            self.store.delete_key(name)
            found.append(facts)
        return found

    def beat(self, seconds: float) -> None:
        """Give signs of life, until `stop`; silence of `seconds` is too long."""
        self.rests += 1
        self._awake.clear()

        def signs(name: str) -> None:
            number = 0
            while not self._awake.wait(min(BEAT_SECONDS, seconds / FEW_BEATS)):
                number += 1
                with suppress(RuntimeError):  # rank 0 meets it in its next order
                    self.store.set(name, str(number))

        self._heart = threading.Thread(target=signs, args=(f"beat/{self.rests}",), daemon=True)
        self._heart.start()

    def stop(self) -> None:
        """End the signs of life: the others may go on."""
        if self._heart:
            self._awake.set()
            self._heart.join()
            self._heart = None
            self.store.set(f"awake/{self.rests}", "1")

    def await_end(self, seconds: float, signalled: Callable[[], int]) -> None:
        """Any other rank: wait for the end of rank 0's signs of life.

        Raises: RuntimeError after a silence of more than `seconds`, and soon where this process was
        `signalled`.
        """
        self.rests += 1
        seen, since = b"", time.monotonic()
        while not self.read(f"awake/{self.rests}"):
            if (last := self.read(f"beat/{self.rests}")) != seen:
                seen, since = last, time.monotonic()
            silent = time.monotonic() - since
            if silent > (min(seconds, FEW_BEATS * BEAT_SECONDS) if signalled() else seconds):
                raise RuntimeError(f"none for {silent:.0f} s")
            time.sleep(LOOK_SECONDS)
