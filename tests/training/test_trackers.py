"""Trackers: real ones get what the run's metrics.jsonl has, and a broken one stops no training."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from small import TEXT

from hornbook.cli import run as command
from hornbook.cli import train
from hornbook.config import Config
from hornbook.training.state import StepMetrics
from hornbook.training.trackers import TRACKERS, TrackerWarning, Tracking

SMALL = (
    "--preset=quick", "--set=block_size=16", "--set=n_embd=32", "--set=batch_size=4",
    "--set=eval_interval=3", "--set=sample_tokens=5", "--no-page",
)  # fmt: skip


def trained(tracker: str, *more: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl of a run with a tracker, trained by the command line: ./run."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    arguments = more or ("text.txt", "--out=run", "--steps=8", *SMALL)
    assert command(["train", *arguments, f"--track={tracker}", "--json"]) == 0
    lines = Path("run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def needs(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'hornbook[{package}]'")


def test_the_command_and_the_trackers_have_the_same_names() -> None:
    offered, _ = get_args(get_type_hints(train.run)["track"])
    assert set(get_args(offered)) == set(TRACKERS)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder: each curve's steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(each.step, each.value) for each in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_runs_own_figures_and_goes_on(place: Path) -> None:
    needs("tensorboard")
    for more in ((), ("--resume=run", "--steps=11", "--no-page")):
        rows = trained("tensorboard", *more)
        found = scalars(place / "run" / "tensorboard")
        for name, column in (
            ("train/loss", "train_loss"),
            ("train/tokens_per_second", "tokens_per_second"),
            ("val/loss", "val_loss"),
        ):
            expected = [(row["step"], row[column]) for row in rows if row[column] is not None]
            assert [step for step, _ in found[name]] == [step for step, _ in expected]
            values = [value for _, value in expected]
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6)
        rates = [0.005 * row["learning_rate_scale"] for row in rows]
        assert [value for _, value in found["train/learning_rate"]] == pytest.approx(rates)
    assert [row["step"] for row in rows] == list(range(1, 12))


def test_wandb_writes_offline_into_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trained("wandb")
    assert json.loads(capsys.readouterr().out)["run"] == "run"  # and nothing else is on stdout
    (written,) = (place / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    for name in (b"train/loss", b"train/learning_rate", b"train/tokens_per_second", b"val/loss"):
        assert name in written.read_bytes()


def test_trackio_keeps_the_runs_own_figures_on_this_machine(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(place / "trackio"))
    rows = trained("trackio")
    assert json.loads(capsys.readouterr().out)["run"] == "run"
    with closing(sqlite3.connect(place / "trackio" / "hornbook.db")) as database:
        kept = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(each)["train/loss"]) for step, each in kept] == [
        (row["step"], row["train_loss"]) for row in rows
    ]


def test_a_tracker_that_is_not_installed_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [name for name in TRACKERS if find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    assert command(["train", f"--track={missing[0]}", "--out=run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"pip install 'hornbook[{missing[0]}]'" in error
    assert not (place / "run").exists()


class Failing:
    """A tracker that fails from its third step on."""

    def __init__(self) -> None:
        self.logged: list[int] = []

    def log(self, figures: Mapping[str, float], step: int) -> None:
        if step >= 3:
            raise ConnectionError("the server is gone")
        self.logged.append(step)

    def close(self) -> None:
        raise AssertionError("it was given up")


def test_a_tracker_that_fails_later_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(config=Config())
    tracking, failing = Tracking(trainer, None), Failing()
    tracking.name, tracking.tracker = "failing", failing
    steps = [StepMetrics(step, step, 1.0, 2.0, 1.0, 0.1, 100.0) for step in range(1, 6)]
    for metrics in steps[:2]:
        tracking.log(metrics)
    with pytest.warns(TrackerWarning, match="training goes on without it: the server is gone"):
        tracking.log(steps[2])
    for metrics in steps[3:]:  # warnings are errors
        tracking.log(metrics)
    tracking.close()
    assert failing.logged == [1, 2]
    assert capsys.readouterr().out == ""


def test_a_tracker_that_cannot_begin_is_a_warning_too(place: Path) -> None:
    needs("tensorboard")
    (place / "run").mkdir()
    (place / "run" / "tensorboard").write_bytes(b"in its way")
    trainer: Any = SimpleNamespace(
        config=Config(),
        state=SimpleNamespace(step=0),
        folder=SimpleNamespace(path=place / "run"),
    )
    with pytest.warns(TrackerWarning, match="tensorboard failed"):
        tracking = Tracking(trainer, "tensorboard")
    tracking.close()
