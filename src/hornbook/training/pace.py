"""Keeps a run's number of steps such that training ends when its time does."""

import time
from collections import deque
from collections.abc import Callable

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
