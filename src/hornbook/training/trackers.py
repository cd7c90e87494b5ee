"""Trackers: programs that show the curves of many runs. Each is an extra, imported when chosen.

What they are sent is what the run's metrics.jsonl has; of several ranks rank 0 alone has a tracker.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from hashlib import sha256
from typing import Any, Protocol

from hornbook.errors import HornbookWarning, reason
from hornbook.language import msg
from hornbook.training.state import StepMetrics
from hornbook.training.trainer import Trainer

PROJECT = "hornbook"


class TrackerWarning(HornbookWarning):
    """A tracker failed; training goes on without it."""

    label = "warning"


class Tracker(Protocol):
    """A run in a tracker."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Keep the figures of a step."""

    def close(self) -> None:
        """Keep all that was logged."""


class TensorBoard:
    """TensorBoard's own files, in the run folder."""

    def __init__(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What was logged after the state that is resumed is dropped.
        first = trainer.state.step + 1
        self.writer = SummaryWriter(str(trainer.folder.path / "tensorboard"), purge_step=first)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Weights & Biases; with WANDB_MODE=offline files in the run folder."""

    def __init__(self, trainer: Trainer) -> None:
        import wandb

        run = trainer.folder
        # A run that is resumed goes on; one that was made anew under its name does not.
        made = run.config.stat().st_mtime_ns
        identity = sha256(f"{run.path.resolve()} {made}".encode()).hexdigest()[:12]
        self.run = wandb.init(
            project=PROJECT,
            name=run.path.name,
            id=identity,
            resume="allow",
            dir=str(run.path),
            config=asdict(trainer.config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("*", step_metric="step")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log({**figures, "step": step})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """Trackio, on this machine, or in a Space where TRACKIO_SPACE_ID names one."""

    def __init__(self, trainer: Trainer) -> None:
        import trackio

        self.finish = trackio.finish  # the run's own method is called once more at exit
        self.run = trackio.init(
            project=PROJECT,
            name=trainer.folder.path.name,
            config=asdict(trainer.config),
            resume="allow",
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.finish()


TRACKERS: dict[str, Callable[[Trainer], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


class Tracking:
    """A tracker that cannot stop a training: its first failure is a warning, and its last.

    What it prints goes to stderr. Without a `name` nothing is tracked.
    """

    def __init__(self, trainer: Trainer, name: str | None) -> None:
        self.name, self.config = name, trainer.config
        self.tracker: Tracker | None = None
        if name is not None:
            self.tracker = self.tried(lambda: TRACKERS[name](trainer))

    def log(self, metrics: StepMetrics) -> None:
        """Send a step's metrics."""
        tracker = self.tracker
        if tracker is not None:
            self.tried(lambda: tracker.log(self.figures(metrics), metrics.step))

    def close(self) -> None:
        """End the run in the tracker, once."""
        tracker, self.tracker = self.tracker, None
        if tracker is not None:
            self.tried(tracker.close)

    def figures(self, metrics: StepMetrics) -> dict[str, float]:
        """What is sent of a step."""
        found = {
            "train/loss": metrics.train_loss,
            "train/learning_rate": self.config.optimizer.learning_rate
            * metrics.learning_rate_scale,
            "train/gradient_norm": metrics.gradient_norm,
            "train/tokens": float(metrics.tokens),
            "train/tokens_per_second": metrics.tokens_per_second,
        }
        return found if metrics.val_loss is None else {**found, "val/loss": metrics.val_loss}

    def tried(self, action: Callable[[], Any]) -> Any:
        """An action's result; None, and no tracker from now on, where it fails."""
        try:
            with redirect_stdout(sys.stderr):
                return action()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises
            self.tracker = None
            warning = msg(
                "{name} failed, and training goes on without it: {why}",
                name=self.name,
                why=reason(error),
            )
            warnings.warn(warning, TrackerWarning, stacklevel=3)
            return None
