"""Weights that are spread over several real processes, and checkpoints in shards.

pytest tests/parallel tests/faults --long     also by two processes, and with accumulation
"""

import json
import random
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from launches import arguments, in_turn, rows

import hornbook as hb
from hornbook import training as engine
from hornbook.errors import CheckpointError, ConfigError
from hornbook.parallel.ranks import check_sharding
from hornbook.plan import memory
from hornbook.plan.machine import choose
from hornbook.plan.memory import Sharing, peak_bytes
from hornbook.plan.resolved import with_parallel
from hornbook.runs.verify import verify
from hornbook.storage import checkpoint
from hornbook.text.dataset import prepare, read_text
from hornbook.training.state import OtherMachineWarning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")

# Of one weight three of four ranks have nothing. Blocks are recomputed, and n-grams handed over.
SPREAD = {
    "parallel": "fsdp", "compile": "off", "recompute": "true", "eval_interval": 20,
    "with_counts": "true", "eval_positions": 100, "context_length": 16, "async_save": "on",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(long_form: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run by 1 and 4 processes, and a run of 4 that 2 go on with; in the long form more."""
    settings = SPREAD | ({"gradient_accumulation": 2, "eval_interval": 5} if long_form else {})
    folder = tmp_path_factory.mktemp("spread")
    text = folder / "hamlet.txt"
    # Not a text that n-grams know by heart, which would leave the network nothing to differ in.
    words = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "'tis")
    text.write_text(" ".join(random.Random(5).choices(words, k=900)))
    longer = ["--steps", "24", "--no-page", "--quiet", "--json"]
    commands: dict[str, tuple[int, list[str]]] = {}
    for ranks in (1, 2, 4) if long_form else (1, 4):
        commands[str(ranks)] = ranks, arguments(text, folder / str(ranks), 20, **settings)
    for n in (1, 4) if long_form else (4,):
        commands[f"copied {n}"] = 0, [str(folder / str(n)), str(folder / f"{n}-2")]
        commands[f"{n}-2"] = 2, ["train", "--resume", str(folder / f"{n}-2"), *longer]
    commands["no"] = 2, arguments(text, folder / "no", 5, parallel="fsdp", compile="on")
    for name, (out, err) in zip(commands, in_turn(list(commands.values()), folder), strict=True):
        assert out or name == "no" or name.startswith("copied"), err
        (folder / f"{name}.json").write_text(out)
        (folder / f"{name}.err").write_text(err)
    return folder


def by_several(runs: Path) -> list[str]:
    """The names of the runs that went on with several processes."""
    return [path.stem for path in runs.glob("*-2.json")]


def result(runs: Path, ranks: int) -> dict[str, object]:
    return dict(json.loads((runs / f"{ranks}.json").read_text()))


def test_spread_weights_learn_what_one_process_learns(runs: Path) -> None:
    one = result(runs, 1)
    for ranks in (2, 4):
        if not (runs / str(ranks)).exists():
            continue
        pairs = list(zip(rows(runs / str(ranks)), rows(runs / "1"), strict=True))
        assert len(pairs) == 20
        for a, b in pairs:
            assert b["train_loss"] > 0.3
            for name in ("train_loss", "gradient_norm"):
                assert a[name] == pytest.approx(b[name], abs=1e-4, rel=1e-4)
        for name in ("val_nats_per_token", "val_dynamic_nats_per_char"):
            assert result(runs, ranks)[name] == pytest.approx(one[name], abs=1e-4)


def test_each_rank_writes_a_shard_and_the_run_is_read_like_any_other(runs: Path) -> None:
    run = runs / "4"
    (last,) = run.glob("checkpoints/step-*")
    names = {path.name for path in last.iterdir()}
    shards = {
        f"{kind}-0000{n}-of-00004.safetensors"
        for kind in ("model", "optimizer")
        for n in (1, 2, 3, 4)
    }
    assert names == shards | {"manifest.json", "state.json"}
    # What the ranks shared of the n-grams is gone.
    assert not list((run / "checkpoints").glob(".*"))
    # The model and its optimizer in four parts: no rank wrote much more than the others.
    sizes = [path.stat().st_size for path in last.glob("model-*")]
    assert max(sizes) < 1.6 * min(sizes)
    assert verify(run).sound
    # Whole, the weights are those of one process, and each tensor has all its rows.
    whole, alone = (checkpoint.load(path / "checkpoints", "step") for path in (run, runs / "1"))
    for file, tensors in alone.tensors.items():
        assert tensors.keys() == whole.tensors[file].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(whole.tensors[file][name], tensor, atol=1e-4, rtol=1e-3)
    # Which have moved by far more than that: this one began as zeros.
    assert alone.tensors["model"]["network.blocks.1.mlp.down.weight"].abs().mean() > 0.01
    arrays = checkpoint.load_arrays(run / "checkpoints", "step").model
    assert all(
        torch.equal(torch.from_numpy(arrays[n]), t) for n, t in whole.tensors["model"].items()
    )
    assert hb.load(run).evaluate().nats_per_token == pytest.approx(
        result(runs, 4)["val_nats_per_token"], abs=1e-6
    )
    assert len(hb.load(run, which="last").generate("to be", max_new_tokens=5)) == 5


def test_a_damaged_or_missing_shard_is_refused(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "4", tmp_path / "run")
    (last,) = run.glob("checkpoints/step-*")
    shard, manifest = last / "model-00003-of-00004.safetensors", last / "manifest.json"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model-00003-of-00004.*SHA-256"):
        checkpoint.read(last)
    # Also where the manifest knows nothing of it.
    entries = json.loads(manifest.read_text())
    del entries[shard.name]
    manifest.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match="expected the shards"):
        checkpoint.read(last)
    assert not verify(run).sound


def test_a_run_of_four_goes_on_with_one_and_two(runs: Path, tmp_path: Path) -> None:
    """The losses are those of a run that one process has begun and extends."""
    losses = {
        name: [row["train_loss"] for row in rows(runs / name)[20:]] for name in by_several(runs)
    }
    for name in ("1", "4"):
        run = shutil.copytree(runs / name, tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OtherMachineWarning)
            resumed = engine.resume(run, steps=24)
        losses[name] = [each.train_loss for each in engine.steps(resumed)]
    for found in losses.values():
        assert len(found) == 4
        assert found == pytest.approx(losses["1"], abs=1e-4)
    for run, count in ((runs / "4-2", 2), (tmp_path / "4", 0)):
        (last,) = run.glob("checkpoints/step-*")
        assert len(list(last.glob("model-*"))) == count


def test_what_does_not_go_together_is_refused(runs: Path) -> None:
    base = hb.Config().override(parallel="fsdp")
    with pytest.raises(ConfigError, match="each of 64 ranks needs a block of every batch"):
        check_sharding(base, 64)
    with pytest.raises(ConfigError, match="LoRA"):
        check_sharding(base.override(lora_rank=4), 2)
    check_sharding(base.override(lora_rank=4), 1)  # one process spreads nothing
    why = (runs / "no.err").read_text()
    assert "compile = 'on': with parallel = 'fsdp' PyTorch runs the blocks" in " ".join(why.split())
    assert why.count("hornbook: ") == 1
    assert not (runs / "no").exists()


def test_spread_weights_take_less_memory_where_there_are_many() -> None:
    config = hb.Config().override(
        n_embd=1024, n_layer=12, batch_size=4, precision="float32", compile="off", parallel="ddp"
    )
    two = Sharing(2, 2)
    replicated = peak_bytes(config, 65, None, two)
    assert peak_bytes(config.override(parallel="fsdp"), 65, None, two) < 0.75 * replicated
    assert replicated > 1.2 * peak_bytes(config.override(batch_size=2), 65)


@pytest.mark.parametrize(("free", "chosen"), [(6.5e9, "ddp"), (5e9, "fsdp"), (1e9, "ddp")])
def test_a_plan_spreads_weights_where_only_that_fits(
    free: float, chosen: str, monkeypatch: pytest.MonkeyPatch, text_path: Path
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "trial")
    monkeypatch.setattr(memory, "available_bytes", lambda: int(free))
    config = hb.Config().override(
        corpus=str(text_path), n_embd=1024, n_layer=12, batch_size=4, precision="float32",
        compile="off", block_size=16, context_length=16,
    )  # fmt: skip
    dataset = prepare(read_text(config.data), config.data)
    made = with_parallel(config, choose(config), dataset)
    assert made.parallel.value == chosen
    assert ("MiB" in made.parallel.why) is (chosen == "fsdp")
    assert made.compile.value == "off"
