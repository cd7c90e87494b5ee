"""SIGTERM, SIGINT, SIGHUP, and a second one, in every phase of a training."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import STEPS, flags, hashes, write_text
from processes import Outcome, Processes

from hornbook import checkpoint
from hornbook.run import RunFolder

PHASES = {
    "start-up": ["hornbook.cli.train:run", "hornbook.data:prepare", "hornbook.training:assemble"],
    "training": ["hornbook.training:train_step"],
    "evaluation": ["hornbook.evaluation:estimate", "hornbook.training:write_sample"],
    "saving": ["hornbook.checkpoint:save"],
    "conclusion": ["hornbook.result:conclude"],
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
    trials, arrived, unsaved = count(2, 10), 0, 0
    for trial in range(trials):
        out = run.with_name(f"run-{trial}")
        number = SIGNALS[(trial + signals) % len(SIGNALS)]
        first = round(2 ** chance.uniform(0, 8))
        ended = processes.run(
            "command_signalled",
            arguments=["train", str(text), "--out", str(out), *flags()],
            at=chance.choice(PHASES[phase]),
            entries=0 if phase in ("start-up", "conclusion") else chance.randrange(3),
            events=[first, first + round(2 ** chance.uniform(0, 11))][:signals],
            number=int(number),
        )
        assert "signalled" in ended.stdout
        arrived += 1
        assert ended.status == 128 + number, ended.stderr
        assert_leaves_in_order(ended)
        unsaved += steps_unsaved(out)
        again = ["train", "--resume", str(out)]
        if not (out / "config.toml").exists():
            again = ["train", str(text), "--out", str(out), *flags()]
        rest = processes.run("command", arguments=again)
        assert rest.status == 0, rest.stderr
        assert hashes(out) == expected
        assert [row["step"] for row in RunFolder(out).metrics_rows()] == list(range(1, STEPS + 1))
    if signals == 1:
        assert unsaved == 0
    tell(
        f"{'a second' if signals == 2 else 'a'} signal in {phase}",
        f"{arrived}: exit status 128 + its number, {unsaved} steps unsaved, same bytes at the end",
    )


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
