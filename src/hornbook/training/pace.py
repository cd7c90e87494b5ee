"""Keeps a run's number of steps such that training ends when its time does."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# The first steps set up, and say nothing of those that follow.
WARM_UP_STEPS = 3
RECENT_STEPS = 100


class Pace:
    """The number of steps that fit until `deadline`, in seconds on the given clock.

    It is computed anew at steps 4, 8, 16 and so on, after each evaluation, and at each of the last
    steps: the learning rate then follows the new total from its present value.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline = deadline
        self.clock = clock
        self.taken = 0
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self.evaluation_seconds = 0.0

    def took(self, seconds: float) -> None:
        """Note how long a step took."""
        self.taken += 1
        if self.taken > WARM_UP_STEPS:
            self.recent.append(seconds)

    def steps(self, step: int, total: int, eval_interval: int) -> int:
        """How many steps there should be in all, `step` of a planned `total` being done."""
        left = self.deadline - self.clock() - self.evaluation_seconds
        if left <= 0:
            return step
        power_of_two = self.taken & (self.taken - 1) == 0
        due = power_of_two or step % eval_interval == 1 or step > 0.9 * total
        if not self.recent or not due:
            return total
        seconds = sum(self.recent) / len(self.recent) + self.evaluation_seconds / eval_interval
        return step + int(left / seconds)


class Replay(Pace):
    """Another run's number of steps, after each of its steps: the setting `replanned`."""

    def __init__(self, replanned: str) -> None:
        super().__init__(math.inf)
        pairs = (pair.split(":") for pair in replanned.split(","))
        self.planned = {int(step): int(steps) for step, steps in pairs}

    def steps(self, step: int, total: int, eval_interval: int) -> int:  # noqa: ARG002
        """How many steps there were to be in all, once `step` was done."""
        return self.planned.get(step, total)


def replanned(rows: Iterable[Mapping[str, Any]], steps: int) -> tuple[int, str]:
    """The settings `steps` and `replanned` that make the steps of a run again, from its metrics.

    `steps` is what was planned last, where the rows do not have it.
    """
    planned = [row.get("steps") or steps for row in rows]
    if set(planned) <= {steps}:
        return steps, ""
    taken = len(planned)
    changes = zip(range(taken + 1), [taken, *planned], [*planned, taken], strict=True)
    return taken, ",".join(f"{step}:{now}" for step, before, now in changes if now != before)
