"""One run by several real processes: torchrun's own, on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from launches import (
    arguments,
    done,
    failures,
    forked,
    pid_of,
    rows,
    together,
    torchrun,
    wait_for_step,
    weights_hash,
)

import hornbook as hb
from hornbook.cores import usable
from hornbook.eval.loss import losses
from hornbook.parallel import Job
from hornbook.text.batches import draw_blocks
from hornbook.training.state import OtherMachineWarning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def test_two_and_four_ranks_learn_what_one_process_learns(text_path: Path, tmp_path: Path) -> None:
    # Which has no use for other processes.
    code = (
        "import sys, hornbook.cli\n"
        f"assert hornbook.cli.run({arguments(text_path, tmp_path / '1', 50)!r}) == 0\n"
        "assert 'hornbook.parallel.group' not in sys.modules\n"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code],
        check=True, capture_output=True, text=True, env=environment(tmp_path),
    )  # fmt: skip
    one = json.loads(alone.stdout)
    for ranks in (2, 4):
        out = tmp_path / str(ranks)
        result = together(ranks, arguments(text_path, out, 50), tmp_path)
        assert result["tokens"] == one["tokens"]
        for name in ("val_nats_per_token", "val_dynamic_nats_per_char"):
            assert result[name] == pytest.approx(one[name], abs=1e-4)
        pairs = zip(rows(out), rows(tmp_path / "1"), strict=True)
        assert all(a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4) for a, b in pairs)
        names = [{path.name for path in run.iterdir()} for run in (out, tmp_path / "1")]
        assert names[0] == names[1]
    # All ranks evaluated what was measured: as a process on its own does.
    trained = hb.load(tmp_path / "4")
    validation = trained.dataset().validation
    nats = losses(trained.model, validation, block_size=trained.config.model.context_size)
    assert result["val_nats_per_token"] == pytest.approx(float(nats.mean()), abs=1e-6)


def test_a_rank_that_hangs_costs_no_bit(text_path: Path, tmp_path: Path) -> None:
    """C kernels, dropout, accumulation, a share that is larger than the other: the same hash."""
    settings = {
        "compile": "auto", "n_embd": 64, "n_head": 4, "dropout": 0.1, "batch_size": 3,
        "gradient_accumulation": 2, "checkpoint_interval": 3, "rank_timeout_seconds": 2,
    }  # fmt: skip
    together(2, arguments(text_path, tmp_path / "whole", 40, **settings), tmp_path)
    out = tmp_path / "stopped"
    process = torchrun(2, arguments(text_path, out, 40, **settings), tmp_path, patience=2)
    wait_for_step(process, out, 4)
    os.kill(pid_of(process, 1), signal.SIGSTOP)
    status, _, err = done(process)
    assert status == 0, err
    assert weights_hash(out) == weights_hash(tmp_path / "whole")
    lost, again = failures(out)
    assert re.search(r"rank 0 lost rank 1 while .* [(]2 of at most 2 s", lost["cause"])
    assert lost["cause"] in " ".join(err.split())
    assert again["cause"] == "the processes were started again"
    assert lost["step"] - again["step"] < 3


def test_a_rank_that_is_killed_costs_a_checkpoint_interval(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(2, arguments(text_path, out, 60), tmp_path)
    wait_for_step(process, out, 13)
    os.kill(pid_of(process, 0), signal.SIGKILL)  # the one that writes
    status, printed, err = done(process)
    assert status == 0, err
    assert json.loads(printed)["steps"] == 60
    assert [row["step"] for row in rows(out)] == list(range(1, 61))
    (again,) = failures(out)
    assert again["step"] >= 10


def test_sigterm_to_torchrun_saves_the_run(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = arguments(text_path, out, 100_000, checkpoint_interval=100_000)
    process = torchrun(2, command, tmp_path)
    wait_for_step(process, out, 3)
    process.terminate()
    status, _, err = done(process)
    assert status != 0
    assert "saved; go on with:" in err
    saved = hb.load(out)
    assert saved.step == rows(out)[-1]["step"] >= 3
    # One process goes on with it, from that step.
    with pytest.warns(OtherMachineWarning, match="ranks was 2, is 1"):
        resumed = next(hb.train(resume_from=out))
    assert resumed.step == saved.step + 1


def test_a_nan_is_reported_with_its_rank_and_batch(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = forked(4, arguments(text_path, out, 50), tmp_path, SPOILED="8")
    assert made.returncode == 1
    assert made.stderr.count("hornbook: ") == 1
    for said in (made.stderr, failures(out)[0]["cause"]):
        assert "step 8, rank 1, batch 7: the loss is nan" in " ".join(said.split())
    assert hb.load(out).step == 7


def test_ranks_with_other_settings_are_refused(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = forked(2, arguments(text_path, out, 50), tmp_path, SPOILED="seed")
    assert made.returncode == 1
    assert made.stderr.count("hornbook: ") == 1
    said = "rank 1 has other settings than rank 0: train.seed is 5, and 1337 on rank 0"
    assert said in " ".join(made.stderr.split())
    assert not out.exists()


def test_the_blocks_of_all_ranks_are_those_of_one_process() -> None:
    tokens = np.arange(1000)
    sizes = {"batch_size": 5, "block_size": 4, "seed": 3}
    whole = draw_blocks(tokens, 7, **sizes)
    for world in (1, 2, 4, 8):
        shares = [draw_blocks(tokens, 7, **sizes, rank=rank, world=world) for rank in range(world)]
        for rank, share in enumerate(shares):
            assert share.starts.tolist() == whole.starts[rank::world].tolist()
            assert share.inputs.shape == (len(whole.starts[rank::world]), 4)


def test_a_process_on_its_own_is_no_job() -> None:
    assert Job.of_environment({}) == Job()
    assert Job.of_environment({"RANK": "1", "WORLD_SIZE": "2"}) == Job()  # not torchrun's


def test_a_job_has_one_name_for_all_ranks_and_restarts() -> None:
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    job = Job.of_environment(given | {"TORCHELASTIC_RUN_ID": "42"})
    again = given | {"TORCHELASTIC_RUN_ID": "42", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert (job.rank, job.world, job.on_one_machine) == (3, 4, False)
    assert Job.of_environment(again).name == job.name


def test_ranks_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    alone = usable().count
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's default, which nobody has chosen
    assert usable().count == max(1, alone // 2)
    assert "share" in usable().why
