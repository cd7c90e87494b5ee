"""One run by several real processes: torchrun's own, on this machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from small import TEXT

import hornbook as hb
from hornbook.cores import usable
from hornbook.eval.loss import losses
from hornbook.parallel import Job
from hornbook.text.batches import draw_blocks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

SMALL = {
    "block_size": 16, "n_embd": 32, "n_layer": 2, "n_head": 2, "batch_size": 8, "eval_interval": 25,
    "checkpoint_interval": 10, "sample_tokens": 3, "precision": "float32", "compile": "off",
}  # fmt: skip


def arguments(text: Path, out: Path, steps: int, **settings: object) -> list[str]:
    """`hornbook train` with a small GPT."""
    chosen = [f"--set={name}={value}" for name, value in {**SMALL, **settings}.items()]
    fixed = ["--preset", "quick", "--steps", str(steps), "--no-page", "--quiet", "--json"]
    return ["train", str(text), *fixed, "--out", str(out), *chosen]


def torchrun(
    ranks: int, command: list[str], cwd: Path, *, restarts: int = 0, module: bool = True
) -> "subprocess.Popen[str]":
    """Start so many processes on one command, a module's or a file's."""
    launched = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launched, *(["-m"] * module), *command],
        cwd=cwd,
        env=environment(cwd),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Status, stdout and stderr, in a time that no hang fits into."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def together(ranks: int, command: list[str], cwd: Path) -> dict[str, object]:
    """The result of a run by so many ranks."""
    status, out, err = done(torchrun(ranks, ["hornbook", *command], cwd))
    assert status == 0, err
    found: dict[str, object] = json.loads(out)  # one object: rank 0 alone prints
    return found


def pid_of(process: "subprocess.Popen[str]", rank: int) -> int:
    """The process of one rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_text().split("\0")
        if f"RANK={rank}" in variables:
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def rows(run: Path) -> list[dict[str, object]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_step(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    while len(rows(run)) < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def weights_hash(run: Path) -> str:
    (path,) = run.glob("checkpoints/step-*/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def failures(run: Path) -> list[str]:
    return [json.loads(line)["cause"] for line in (run / "failures.jsonl").open()]


@pytest.fixture
def one(text_path: Path, tmp_path: Path) -> dict[str, object]:
    """The result of the same run by one process."""
    command = [sys.executable, "-m", "hornbook", *arguments(text_path, tmp_path / "one", 50)]
    made = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=True, text=True
    )
    return json.loads(made.stdout)


def test_two_and_four_ranks_learn_what_one_process_learns(
    text_path: Path, tmp_path: Path, one: Mapping[str, object]
) -> None:
    for ranks in (2, 4):
        out = tmp_path / str(ranks)
        result = together(ranks, arguments(text_path, out, 50), tmp_path)
        assert result["tokens"] == one["tokens"]
        for name in ("val_nats_per_token", "val_dynamic_nats_per_char"):
            assert result[name] == pytest.approx(one[name], abs=1e-4)
        pairs = zip(rows(out), rows(tmp_path / "one"), strict=True)
        assert all(a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4) for a, b in pairs)
        assert {path.name for path in out.iterdir()} == {
            path.name for path in (tmp_path / "one").iterdir()
        }
    # All ranks evaluated what was measured: to the last digits as a process on its own does.
    trained = hb.load(tmp_path / "4")
    validation = trained.dataset().validation
    alone = losses(trained.model, validation, block_size=trained.config.model.context_size)
    assert result["val_nats_per_token"] == pytest.approx(float(alone.mean()), abs=1e-6)


def test_ranks_with_c_kernels_dropout_and_uneven_shares_repeat_their_bits(
    text_path: Path, tmp_path: Path
) -> None:
    settings = {
        "compile": "auto", "n_embd": 64, "n_head": 4, "dropout": 0.1, "batch_size": 3,
        "gradient_accumulation": 2,
    }  # fmt: skip
    hashes = set()
    for name in ("a", "b"):
        together(2, arguments(text_path, tmp_path / name, 12, **settings), tmp_path)
        hashes.add(weights_hash(tmp_path / name))
    # And when the run was stopped and resumed on the way.
    command = arguments(text_path, tmp_path / "c", 12, **settings, checkpoint_interval=1)
    process = torchrun(2, ["hornbook", *command], tmp_path, restarts=1)
    wait_for_step(process, tmp_path / "c", 4)
    os.kill(pid_of(process, 1), signal.SIGKILL)
    status, _, err = done(process)
    assert status == 0, err
    hashes.add(weights_hash(tmp_path / "c"))
    assert len(hashes) == 1


@pytest.mark.parametrize(("rank", "sent"), [(0, signal.SIGKILL), (3, signal.SIGSTOP)])
def test_a_rank_that_dies_or_hangs_costs_a_checkpoint_interval_at_most(
    rank: int, sent: signal.Signals, text_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = arguments(text_path, out, 60, rank_timeout_seconds=2)
    process = torchrun(4, ["hornbook", *command], tmp_path, restarts=1)
    wait_for_step(process, out, 13)
    os.kill(pid_of(process, rank), sent)
    status, printed, err = done(process)
    assert status == 0, err
    assert json.loads(printed)["steps"] == 60
    assert [row["step"] for row in rows(out)] == list(range(1, 61))
    again = [json.loads(line) for line in (out / "failures.jsonl").open()][-1]
    assert again["cause"] == "the processes were started again"
    assert again["step"] >= 10
    if sent == signal.SIGSTOP:
        lost, _ = failures(out)
        assert "lost rank 3 while it waited for the gradients of a step (2 of at most 2 s)" in lost
        assert lost in " ".join(err.split())


def test_sigterm_to_torchrun_saves_the_run(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = arguments(text_path, out, 100_000, checkpoint_interval=100_000)
    process = torchrun(2, ["hornbook", *command], tmp_path)
    wait_for_step(process, out, 3)
    process.terminate()
    status, _, err = done(process)
    assert status != 0
    assert "saved; go on with:" in err
    saved = hb.load(out)
    assert saved.step == rows(out)[-1]["step"] >= 3
    # One process goes on with it, from that step.
    resumed = next(hb.train(resume_from=out))
    assert resumed.step == saved.step + 1


def test_a_nan_is_reported_with_its_rank_and_batch(text_path: Path, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(
        "import os, sys, torch, hornbook.cli\n"
        "calls = []\n"
        "def spoil(part, inputs, output):\n"
        "    if type(part).__name__ == 'Block' and torch.is_grad_enabled():\n"
        "        calls.append(1)\n"
        "        if os.environ['RANK'] == '1' and len(calls) == 2 * 7 + 1:\n"
        "            return output * float('nan')\n"
        "torch.nn.modules.module.register_module_forward_hook(spoil)\n"
        "sys.exit(hornbook.cli.run(sys.argv[1:]))\n"
    )
    out = tmp_path / "run"
    command = [str(script), *arguments(text_path, out, 50)]
    status, _, err = done(torchrun(2, command, tmp_path, module=False))
    assert status == 1
    assert err.count("hornbook: ") == 1
    assert "step 8, rank 1, batch 7: the loss is nan" in err
    assert "step 8, rank 1, batch 7: the loss is nan" in failures(out)[0]
    assert hb.load(out).step == 7


def test_ranks_with_other_settings_are_refused(text_path: Path, tmp_path: Path) -> None:
    script = tmp_path / "unlike.py"
    script.write_text(
        "import os, sys, hornbook.cli\n"
        "more = ['--seed', '5'] if os.environ['RANK'] == '1' else []\n"
        "sys.exit(hornbook.cli.run([*sys.argv[1:], *more]))\n"
    )
    out = tmp_path / "run"
    command = [str(script), *arguments(text_path, out, 50)]
    status, _, err = done(torchrun(2, command, tmp_path, module=False))
    assert status == 1
    assert err.count("hornbook: ") == 1
    assert "rank 1 has other settings than rank 0: train.seed is 5, and 1337 on rank 0" in err
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


def test_training_without_torchrun_leaves_the_group_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    code = (
        "import sys, hornbook.cli\n"
        f"assert hornbook.cli.run({arguments(text, tmp_path / 'run', 2)!r}) == 0\n"
        "assert 'hornbook.parallel.group' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, capture_output=True, env=environment(tmp_path))
