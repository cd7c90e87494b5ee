"""Keeps a run's number of steps such that training ends when its time does."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from hornbook.cores import thread_seconds

# The first steps set up, and say nothing of those that follow.
WARM_UP_STEPS = 3
RECENT_STEPS = 100
# A plan is far off when less than this share of its steps fits; that is decided at the earliest
# after so many steps, and only while this share of the time is left.
FAR_OFF, STEPS_TO_DECIDE, TIME_TO_DECIDE = 0.5, 8, 0.4
# What was known of the machine before training counts as so many seconds of it.
SECONDS_BEFORE = 3.0


# After the step of a change: the run had ended there, and was evaluated, before it was extended.
EVALUATED = "e"


class Pace:
    """The number of steps that fit until `deadline`, in seconds on the given clock.

    It is computed anew at steps 4, 8, 16 and so on, after each evaluation, and at each of the last
    steps: the learning rate then follows the new total from its present value. What follows
    training takes `concluding_seconds` on an idle machine, beside the `rest` of what runs in other
    threads, and on a busy one as much longer as this thread waits for a core (`waited`, in
    seconds). `slowdown` is that of the time before. `ends` has the steps at which the run ended
    before it was extended.
    """

    ends: frozenset[int] = frozenset()

    def __init__(
        self,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        concluding_seconds: float = 0.0,
        rest: Callable[[], float] = lambda: 0.0,
        waited: Callable[[], float] = lambda: thread_seconds()[1],
        slowdown: float = 1.0,
    ) -> None:
        self.deadline = deadline
        self.clock = clock
        self.waited = waited
        self.before = slowdown
        self.concluding_seconds, self.rest = concluding_seconds, rest
        self.began, self.waited_before = clock(), waited()
        self.planned_seconds = deadline - concluding_seconds - rest() - self.began
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
        left = self.left() - self.evaluation_seconds
        if left <= 0:
            return step
        power_of_two = self.taken & (self.taken - 1) == 0
        due = power_of_two or step % eval_interval == 1 or step > 0.9 * total
        if not self.recent or not due:
            return total
        seconds = sum(self.recent) / len(self.recent) + self.evaluation_seconds / eval_interval
        return step + int(left / seconds)

    def left(self) -> float:
        """The seconds until training must end."""
        concluding = self.concluding_seconds + self.rest()
        return self.deadline - self.clock() - concluding * self.slowdown()

    def slowdown(self) -> float:
        """How many times longer this thread takes because others use its core; 1 on an idle one."""
        passed, waited = self.clock() - self.began, self.waited() - self.waited_before
        ran = SECONDS_BEFORE + max(0.0, passed - waited)
        return (SECONDS_BEFORE * self.before + passed) / ran

    def far_off(self, steps: int, planned: int) -> bool:
        """Whether far fewer steps fit than planned, and there is time for another plan."""
        enough = self.left() > TIME_TO_DECIDE * (self.deadline - self.began)
        return self.taken == STEPS_TO_DECIDE and enough and steps < FAR_OFF * planned

    def seconds_of(self, steps: int) -> float:
        """What each of so many steps has cost by now, evaluations included."""
        return (self.clock() - self.began) / max(1, steps)


class Replay(Pace):
    """Another run's number of steps, after each of its steps: the setting `replanned`."""

    def __init__(self, replanned: str) -> None:
        super().__init__(math.inf)
        pairs = [pair.split(":") for pair in replanned.split(",")]
        self.planned = {int(step.rstrip(EVALUATED)): int(steps) for step, steps in pairs}
        self.ends = frozenset(int(step[:-1]) for step, _ in pairs if step.endswith(EVALUATED))

    def steps(self, step: int, total: int, eval_interval: int) -> int:  # noqa: ARG002
        """How many steps there were to be in all, once `step` was done."""
        return self.planned.get(step, total)


def replanned(
    rows: Sequence[Mapping[str, Any]], steps: int, *, cut: bool = False
) -> tuple[int, str]:
    """The settings `steps` and `replanned` that make the steps of a run again, from its metrics.

    `steps` is what was planned last, where the rows do not have it; `cut` says that the time was up
    before. Where a run had ended and was extended, its evaluation there is repeated: it may have
    found the best weights.
    """
    planned = [row.get("steps") or steps for row in rows]
    if set(planned) <= {steps} and not cut:
        return steps, ""
    taken = len(planned)
    changes: list[str] = []
    for step, (before, now) in enumerate(pairwise([taken, *planned, taken])):
        if now != before:
            ended = 0 < step == before and rows[step - 1].get("val_loss") is not None
            changes.append(f"{step}{EVALUATED * ended}:{now}")
    return taken, ",".join(changes)
