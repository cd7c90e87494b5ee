"""SIGTERM, SIGINT, SIGHUP, and a second one, in every phase of a training."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import STEPS, flags, hashes, write_text
from processes import Outcome, Processes

from hornbook.runs.folder import RunFolder
from hornbook.storage import checkpoint

PHASES = {
    "start-up": [
        "hornbook.cli.train:run",
        "hornbook.text.dataset:prepare",
        "hornbook.training.trainer:assemble",
    ],
    "training": ["hornbook.training.step:train_step"],
    "evaluation": ["hornbook.eval.loss:estimate", "hornbook.training.loop:sample_of"],
    "saving": ["hornbook.storage.checkpoint:save"],
    "saving in the background": [
        "hornbook.training.saves:add",
        "hornbook.training.saves:wait",
        "hornbook.training.step:train_step",
    ],
    "conclusion": ["hornbook.training.conclude:conclude"],
}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, processes: Processes
) -> tuple[Path, dict[str, str]]:
    """The text, and the hashes of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    text = write_text(folder)
    done = processes.run(
        "command", arguments=["train", str(text), "--out", str(folder / "run"), *flags()]
    )
    assert done.status == 0, done.stderr
    return text, hashes(folder / "run")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_in_each_phase(
    phase: str,
    signals: int,
    whole: tuple[Path, dict[str, str]],
    run: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    text, expected = whole
    trials, unsaved = count(2, 10), 0
    for trial in range(trials):
        out = run.with_name(f"run-{trial}")
        saving = {"async_save": "on"} if phase == "saving in the background" else {}
        start = ["train", str(text), "--out", str(out), *flags(**saving)]
        number = SIGNALS[(trial + signals) % len(SIGNALS)]
        ended = processes.run(
            "command_signalled",
            arguments=start,
            at=chance.choice(PHASES[phase]),
            number=int(number),
            entries=0 if phase in ("start-up", "conclusion") else chance.randrange(3),
            events=round(2 ** chance.uniform(0, 8)),
            again=10 ** chance.uniform(-4, -1) if signals == 2 else None,
        )
        assert "signalled in" in ended.stdout
        assert ended.status == 128 + number, ended.stderr
        assert_leaves_in_order(ended)
        unsaved += steps_unsaved(out)
        resume = ["train", "--resume", str(out)]
        rest = processes.run(
            "command", arguments=resume if (out / "config.toml").exists() else start
        )
        assert rest.status == 0, rest.stderr
        assert hashes(out) == expected
        assert [row["step"] for row in RunFolder(out).metrics_rows()] == list(range(1, STEPS + 1))
    assert unsaved == 0
    tell(
        f"{'two signals' if signals == 2 else 'a signal'} in {phase}",
        f"{trials} of SIGTERM, SIGINT, SIGHUP: exit status 128 + the number, every finished step "
        "saved, resumed to the uninterrupted run's bytes",
    )


def test_a_signal_while_compiling(
    run: Path,
    whole: tuple[Path, dict[str, str]],
    tmp_path: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    text, _ = whole
    trials, long = count(1, 3), count(0, 1)
    compiled = flags(compile="on", steps=4)
    if long:  # Compiling whole takes half a minute, so the short form only begins to.
        start = ["train", str(text), "--out", str(tmp_path / "whole"), *compiled]
        assert processes.run("command", arguments=start).status == 0
    for trial in range(trials):
        out = run.with_name(f"run-{trial}")
        number = SIGNALS[trial % len(SIGNALS)]
        ended = processes.run(
            "command_signalled",
            arguments=["train", str(text), "--out", str(out), *compiled],
            at="torch._dynamo.convert_frame:_compile",
            number=int(number),
            events=round(2 ** chance.uniform(0, 14)),
        )
        assert "signalled in" in ended.stdout
        assert ended.status == 128 + number, ended.stderr
        assert_leaves_in_order(ended)
        assert processes.run("command", arguments=["verify", str(out)]).status == 0
        if long:
            assert processes.run("command", arguments=["train", "--resume", str(out)]).status == 0
            assert hashes(out) == hashes(tmp_path / "whole")
    tell("a signal while compiling", f"{trials}: as above")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_an_object_is_destroyed(
    number: signal.Signals, whole: tuple[Path, dict[str, str]], run: Path, processes: Processes
) -> None:
    # What a handler raises there Python drops; a Ctrl-C was lost so, in torch's own generators.
    text, expected = whole
    ended = processes.run(
        "command_signalled",
        arguments=["train", str(text), "--out", str(run), *flags()],
        at="hornbook.training.step:train_step",
        number=int(number),
        entries=2,
        destroying=True,
    )
    assert ended.status == 128 + number
    assert_leaves_in_order(ended)
    assert steps_unsaved(run) == 0
    assert processes.run("command", arguments=["train", "--resume", str(run)]).status == 0
    assert hashes(run) == expected


def test_without_handlers_a_signal_costs_steps(run: Path, processes: Processes) -> None:
    # The control: a training that does not heed signals loses steps, and its status shows it.
    text = write_text(run.parent)
    trial = processes.start("train", text=text, run=run, checkpoint_interval=STEPS)
    trial.reaches("step 3")
    trial.send(signal.SIGTERM)
    assert trial.wait().status == -signal.SIGTERM
    assert steps_unsaved(run) >= 3


def assert_leaves_in_order(ended: Outcome) -> None:
    """Nothing of Python's shows, and the output ends with whole lines."""
    for sign in ("Traceback", "Exception ignored", "hornbook/"):
        assert sign not in ended.stderr
    assert not ended.stderr or ended.stderr.endswith("\n")


def steps_unsaved(run: Path) -> int:
    """How many finished steps are in the metrics but in no checkpoint."""
    folder = RunFolder(run)
    rows = [row["step"] for row in folder.metrics_rows()]
    found = checkpoint.folders(folder.checkpoints, "step")
    saved = checkpoint.read(found[0]).step if found else 0
    return max(0, max(rows, default=0) - saved)
