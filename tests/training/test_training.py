"""Training: exact resume, a stream nobody disturbs, and a stop before anything is spoiled."""

import dataclasses
import itertools
import json
import shutil
import sys
import warnings
from pathlib import Path
from types import FrameType

import pytest
import torch
from small import TEXT, small_config

import hornbook as hb
from hornbook import training as engine
from hornbook.config import MODELS, Config
from hornbook.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError
from hornbook.plan import machine
from hornbook.runs.folder import new_run_path
from hornbook.runs.verify import verify
from hornbook.storage import checkpoint
from hornbook.storage.disk import Disk
from hornbook.training.conclude import conclude
from hornbook.training.resumption import UnsavedStepsWarning
from hornbook.training.state import OtherMachineWarning


def weights(run: Path) -> dict[str, torch.Tensor]:
    return hb.load(run, which="last").model.state_dict()


def hashes(run: Path) -> tuple[str | None, str | None]:
    """SHA-256 of the last weights and optimizer state, and all of the run sound."""
    verdict = verify(run)
    assert verdict.sound
    last = next(each for each in verdict.checkpoints if each.kind == "step")
    return last.weights_sha256, last.optimizer_sha256


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_learns_and_leaves_a_whole_folder(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    metrics = list(hb.train(small_config(text_path, steps=40), out=out))
    assert [each.step for each in metrics] == list(range(1, 41))
    assert metrics[-1].tokens == 40 * 4 * 16
    evaluated = [each.step for each in metrics if each.val_loss is not None]
    assert evaluated == [*range(3, 40, 3), 40]
    assert metrics[-1].val_loss is not None
    assert metrics[-1].val_loss < metrics[0].train_loss - 0.5
    assert metrics[-1].sample
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.toml", "environment.json", "tokenizer.json", "metrics.jsonl"}
    kinds = sorted(path.name.split("-")[0] for path in (out / "checkpoints").iterdir())
    assert kinds == ["best", "step"]


FIXTURES = Path(__file__).parents[1] / "fixtures"
# But gpt, which the other variants are, and the counts, which take one step.
RUNGS = {*MODELS} - {"gpt", "ngram"}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "accumulation": {"gradient_accumulation": 3},
    "bfloat16": {"precision": "bfloat16", "dropout": 0.1},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "tied": {"tie_embeddings": True, "learning_rate": 1e-3},
    "bytes": {"tokenizer": "byte"},
    **{name: {"model": name, "dropout": 0.1} for name in MODELS if name in RUNGS},
    "bfloat16 rung": {"model": "layernorm", "precision": "bfloat16", "gradient_accumulation": 2},
    "everything": {
        "dropout": 0.2,
        "gradient_accumulation": 2,
        "precision": "bfloat16",
        "keep_last": 3,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(
    variant: str, text_path: Path, tmp_path: Path
) -> None:
    config = small_config(text_path, **VARIANTS[variant])
    list(hb.train(config, out=tmp_path / "whole"))
    for stop in (1, 5):
        run = tmp_path / f"stopped-{stop}"
        steps = hb.train(config, out=run)
        list(itertools.islice(steps, stop))
        steps.close()
        torch.randn(3)  # the world goes on in between
        rest = list(hb.train(resume_from=run))
        assert [each.step for each in rest] == list(range(stop + 1, 9))
        assert hashes(run) == hashes(tmp_path / "whole")
        rows = (run / "metrics.jsonl").read_text().splitlines()
        assert len(rows) == 8


# What torch's compiler warns of in itself would otherwise end it.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_compiled_too_a_resumed_run_is_uninterrupted_to_the_bit(
    text_path: Path, tmp_path: Path
) -> None:
    if machine.compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler")
    config = small_config(text_path, compile="on", dropout=0.2, n_layer=1, gradient_accumulation=2)
    list(hb.train(config, out=tmp_path / "whole"))
    steps = hb.train(config, out=tmp_path / "stopped")
    list(itertools.islice(steps, 5))
    steps.close()
    list(hb.train(resume_from=tmp_path / "stopped"))
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")


class Interrupted:
    """A model that an interrupt strikes while it evaluates, once."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.hook = model.register_forward_pre_hook(self.strike)

    def strike(self, model: torch.nn.Module, _: object) -> None:
        if not model.training:
            self.hook.remove()
            raise KeyboardInterrupt


def test_an_interrupt_while_evaluating_loses_no_row_and_no_best(
    text_path: Path, tmp_path: Path
) -> None:
    config = small_config(text_path)
    list(hb.train(config, out=tmp_path / "whole"))
    trainer = engine.begin(config, out=tmp_path / "stopped")
    steps = engine.steps(trainer)
    list(itertools.islice(steps, 5))
    Interrupted(trainer.state.model)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert trainer.state.step == 6
    rest = list(hb.train(resume_from=tmp_path / "stopped"))
    assert [each.step for each in rest] == [6, 7, 8]
    assert rest[0].val_loss is not None
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    found = [
        [(row["step"], row["train_loss"], row["val_loss"]) for row in map(json.loads, lines)]
        for lines in (
            (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            for name in ("whole", "stopped")
        )
    ]
    assert found[0] == found[1]
    best = [[each.weights_sha256 for each in verify(tmp_path / name).checkpoints] for name in
            ("whole", "stopped")]  # fmt: skip
    assert best[0] == best[1]


def test_an_interrupt_before_the_first_step_can_be_resumed_from(
    text_path: Path, tmp_path: Path
) -> None:
    config = small_config(text_path)
    trainer = engine.begin(config, out=tmp_path / "run")
    steps = engine.steps(trainer)
    hook = trainer.state.model.register_forward_pre_hook(raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    hook.remove()
    assert not (tmp_path / "run" / "checkpoints").exists()
    list(hb.train(resume_from=tmp_path / "run"))
    list(hb.train(config, out=tmp_path / "whole"))
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole")


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "the best"])
@pytest.mark.parametrize("steps", [5, 8])
def test_going_on_without_the_checkpoints_there_were_is_refused(
    left: str, steps: int, text_path: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stop_after(steps, small_config(text_path), run)
    for path in (run / "checkpoints").glob("step-*" if left == "the best" else "*"):
        shutil.rmtree(path)
    if left == "nothing":
        (run / "checkpoints").rmdir()
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=f"checkpoints are missing: .* has {steps} steps"):
        engine.resume(run)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert not verify(run).sound


def test_a_finished_run_is_known_by_its_figures_too(text_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = engine.begin(small_config(text_path, checkpoint_interval=100), out=run)
    list(engine.steps(trainer))
    conclude(trainer)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"result.json says that the run had ended"):
        engine.resume(run)


def test_steps_that_may_never_have_been_saved_are_taken_again_and_said(
    text_path: Path, tmp_path: Path
) -> None:
    # As a kill before the first checkpoint leaves it.
    run = tmp_path / "run"
    stop_after(4, small_config(text_path), run)
    shutil.rmtree(run / "checkpoints")
    with pytest.warns(UnsavedStepsWarning, match="the 4 steps in metrics.jsonl are taken again"):
        trainer = engine.resume(run)
    assert [each.step for each in engine.steps(trainer)] == list(range(1, 9))
    list(hb.train(small_config(text_path), out=tmp_path / "whole"))
    assert hashes(run) == hashes(tmp_path / "whole")


def stop_after(steps: int, config: Config, run: Path) -> None:
    """Train so many steps, and save."""
    taken = hb.train(config, out=run)
    list(itertools.islice(taken, steps))
    taken.close()


def raise_interrupt(_model: torch.nn.Module, _inputs: object) -> None:
    raise KeyboardInterrupt


def test_keep_last_keeps_so_many_and_the_best(text_path: Path, tmp_path: Path) -> None:
    list(
        hb.train(small_config(text_path, checkpoint_interval=2, keep_last=3), out=tmp_path / "run")
    )
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names[1:] == ["step-00000004", "step-00000006", "step-00000008"]
    assert names[0].startswith("best-")


def test_a_run_goes_on_for_longer_than_was_planned(text_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    list(hb.train(small_config(text_path), out=run))
    with pytest.raises(ConfigError, match="planned for 8 steps"):
        engine.resume(run, steps=7)
    longer = list(engine.steps(engine.resume(run, steps=12)))
    assert [each.step for each in longer] == [9, 10, 11, 12]
    assert longer[0].learning_rate_scale > longer[-1].learning_rate_scale
    assert hb.load_config(run / "config.toml").train.steps == 12
    assert verify(run).sound
    assert hb.load(run, which="last").step == 12


def test_a_second_trainer_is_kept_out(text_path: Path, tmp_path: Path) -> None:
    steps = hb.train(small_config(text_path), out=tmp_path / "run")
    next(steps)
    with pytest.raises(CheckpointError, match="is training it; a run has one writer"):
        engine.resume(tmp_path / "run")
    steps.close()
    assert engine.resume(tmp_path / "run").state.step == 1


def test_a_beginning_cut_short_leaves_a_folder_that_can_be_taken(
    text_path: Path, tmp_path: Path
) -> None:
    class CutShort(Disk):
        def rename(self, old: Path, new: Path) -> None:
            if new.name == "config.toml":
                raise SystemExit(9)
            super().rename(old, new)

    with pytest.raises(SystemExit):
        engine.begin(small_config(text_path), out=tmp_path / "run", disk=CutShort())
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"tokenizer.json", ".lock", ".writing-config.toml"} <= left
    assert engine.begin(small_config(text_path), out=tmp_path / "run").state.step == 0
    # Without our lock it may be anybody's tokenizer.
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "run" / "tokenizer.json", tmp_path / "other")
    with pytest.raises(ConfigError, match="not empty"):
        engine.begin(small_config(text_path), out=tmp_path / "other")


def test_another_machine_is_named_and_strict_refuses(text_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = hb.train(small_config(text_path), out=run)
    next(steps)
    steps.close()
    folder = run / "checkpoints" / "step-00000001"
    state = json.loads((folder / "state.json").read_text())
    state["machine"] |= {"torch": "1.0", "system": "elsewhere"}
    found = checkpoint.read(folder)
    shutil.rmtree(folder)
    changed = dataclasses.replace(found, state=state)
    checkpoint.save(run / "checkpoints", "step", changed)
    with pytest.raises(CheckpointError, match=r"--strict, and torch was 1\.0, is "):
        engine.resume(run, strict=True)
    with pytest.warns(OtherMachineWarning, match="torch was 1") as caught:
        engine.resume(run)
    assert "system" not in str(caught[0].message)


def test_a_run_of_the_first_format_is_read_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run-format-1"
    assert verify(run).sound
    assert hb.load(run).step == 4
    assert hb.load(run).evaluate().positions == 54
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherMachineWarning)
        rest = list(hb.train(resume_from=run))
    assert [each.step for each in rest] == [5, 6]
    assert verify(run).sound


def test_a_run_with_counts_from_before_the_rooms_loads_resumes_and_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Made at commit 362c25e; the figures beside it are what that commit computed.
    expected = json.loads((FIXTURES / "run-with-counts.json").read_text(encoding="utf-8"))
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HORNBOOK_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(FIXTURES / "run-with-counts", tmp_path / "run"))
    (tmp_path / "data" / "verse").mkdir(parents=True)
    shutil.copy(FIXTURES / "verse.txt", tmp_path / "data" / "verse" / "input.txt")
    assert verify(run).sound
    model = hb.load(run)
    assert model.step == expected["step"]
    assert model.evaluate().nats_per_char == pytest.approx(expected["nats_per_char"], rel=1e-5)
    text = model.generate("the ", max_new_tokens=60, seed=3, temperature=0.8)
    assert text == expected["text"]
    assert model.generate("a ", max_new_tokens=40, temperature=0) == expected["likeliest"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherMachineWarning)
        rest = list(hb.train(resume_from=run))
    losses = [each.train_loss for each in rest]
    assert losses == pytest.approx(expected["resumed_train_losses"], rel=1e-4)
    resumed = hb.load(run, which="last").evaluate().nats_per_char
    assert resumed == pytest.approx(expected["resumed_nats_per_char"], rel=1e-5)
    assert verify(run).sound


def test_a_damaged_best_is_said_and_the_last_stands_in(text_path: Path, tmp_path: Path) -> None:
    list(hb.train(small_config(text_path), out=tmp_path / "run"))
    best = next((tmp_path / "run" / "checkpoints").glob("best-*")) / "model.safetensors"
    best.write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert hb.load(tmp_path / "run").step == 8
    said = [str(each.message) for each in caught]
    assert "skipped a damaged checkpoint" in said[0]
    assert "last weights, of step 8, are used instead" in said[1]


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "", ".hidden", "x" * 400])
def test_a_corpus_name_cannot_lead_out_of_the_runs(name: str) -> None:
    path = new_run_path(name)
    assert path.parent == Path("runs")
    assert not path.name.startswith(".")
    assert len(path.name) < 100


def test_a_crash_loses_at_most_one_interval(text_path: Path, tmp_path: Path) -> None:
    config = small_config(text_path)
    list(hb.train(config, out=tmp_path / "whole"))
    steps = hb.train(config, out=tmp_path / "crashed")
    list(itertools.islice(steps, 6))
    with pytest.raises(RuntimeError, match="power"):
        steps.throw(RuntimeError("power cut"))
    with (tmp_path / "crashed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train_lo')
    rest = list(hb.train(resume_from=tmp_path / "crashed"))
    assert rest[0].step == 5
    assert equal(weights(tmp_path / "crashed"), weights(tmp_path / "whole"))
    assert len((tmp_path / "crashed" / "metrics.jsonl").read_text().splitlines()) == 8


def test_one_seed_one_result_another_seed_another(text_path: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(hb.train(small_config(text_path, seed=seed, dropout=0.2), out=tmp_path / name))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_neither_the_caller_nor_evaluation_disturbs_the_stream(
    text_path: Path, tmp_path: Path
) -> None:
    config = small_config(text_path, dropout=0.3)
    list(hb.train(config, out=tmp_path / "quiet"))
    for _ in hb.train(config.override(eval_interval=1), out=tmp_path / "noisy"):
        torch.randn(17)
    assert equal(weights(tmp_path / "quiet"), weights(tmp_path / "noisy"))
    torch.manual_seed(4)
    expected = torch.randn(3)
    torch.manual_seed(4)
    list(hb.train(config, out=tmp_path / "third"))
    assert torch.equal(torch.randn(3), expected), "training leaves the caller's stream alone"


def test_accumulated_parts_are_one_large_batch(text_path: Path, tmp_path: Path) -> None:
    parts = engine.begin(small_config(text_path, gradient_accumulation=2), out=tmp_path / "parts")
    found = engine.train_step(parts)
    whole = engine.begin(small_config(text_path, batch_size=8), out=tmp_path / "whole")
    from hornbook.text.batches import batch

    pairs = [
        batch(whole.dataset.train, index, batch_size=4, block_size=16, seed=1337)
        for index in (0, 1)
    ]
    x, y = (torch.cat(both) for both in zip(*pairs, strict=True))
    _, expected = whole.state.model(x, y)
    assert expected is not None
    expected.backward()
    squares = sum(
        float(p.grad.square().sum()) for p in whole.state.model.parameters() if p.grad is not None
    )
    assert found.train_loss == pytest.approx(expected.item(), rel=1e-5)
    assert found.gradient_norm == pytest.approx(squares**0.5, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_before_the_update(text_path: Path, tmp_path: Path) -> None:
    trainer = engine.begin(small_config(text_path), out=tmp_path / "run")
    steps = engine.steps(trainer)
    list(itertools.islice(steps, 4))
    with torch.no_grad():
        trainer.state.model.norm.weight[0] = float("nan")
    broken = {key: value.clone() for key, value in trainer.state.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="step 5, batch 4: the loss is nan"):
        next(steps)
    for key, value in trainer.state.model.state_dict().items():
        assert torch.equal(value, broken[key]) or "norm" in key, "nothing was updated"
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    assert hb.load(tmp_path / "run", which="last").step == 4


def test_the_resolved_config_runs_again_to_the_same_weights(
    text_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(text_path.parent)
    list(hb.train(small_config(Path("hamlet.txt")), out=tmp_path / "first"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = hb.load_config(tmp_path / "first" / "config.toml")
    assert again.train.device == "cpu"
    list(hb.train(again, out=tmp_path / "second"))
    assert equal(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_a_file_named_like_a_known_text_is_found_again_from_elsewhere(
    text_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_path.rename(tmp_path / "shakespeare.txt")
    monkeypatch.chdir(tmp_path)
    list(hb.train(small_config(Path("shakespeare.txt")), out=tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert hb.load(tmp_path / "run").evaluate().positions > 0


def test_a_changed_text_is_not_resumed_upon(text_path: Path, tmp_path: Path) -> None:
    steps = hb.train(small_config(text_path), out=tmp_path / "run")
    next(steps)
    steps.close()
    text_path.write_text(TEXT + "!", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has changed since"):
        next(hb.train(resume_from=tmp_path / "run"))
    with pytest.raises(CheckpointError, match="has changed since"):
        hb.load(tmp_path / "run").evaluate()


def test_a_folder_in_use_is_not_written_over(text_path: Path, tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "thesis.doc").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        next(hb.train(small_config(text_path), out=tmp_path / "busy"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file"):
        next(hb.train(small_config(text_path), out=tmp_path / "file"))


def test_runs_are_numbered(
    text_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        trainer = engine.begin(small_config(text_path))
        assert trainer.folder.path == Path("runs") / f"hamlet-{number}"


def test_a_text_too_short_for_the_block_leaves_no_folder(text_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs at least 10001"):
        next(hb.train(small_config(text_path, block_size=10_000), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_was_asked_for_and_is_absent_is_said(text_path: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="device = 'cuda': not present"):
        next(hb.train(small_config(text_path, device="cuda"), out=tmp_path / "run"))


def test_a_run_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        hb.load(tmp_path)
    with pytest.raises(CheckpointError, match="not a run folder"):
        next(hb.train(resume_from=tmp_path))


def test_weights_of_another_shape_are_refused(text_path: Path, tmp_path: Path) -> None:
    list(hb.train(small_config(text_path), out=tmp_path / "run"))
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace("n_layer = 2", "n_layer = 3"))
    with pytest.raises(CheckpointError, match="edited or damaged since the run began"):
        hb.load(tmp_path / "run")


def test_metrics_are_plain_values(text_path: Path, tmp_path: Path) -> None:
    metrics = next(hb.train(small_config(text_path), out=tmp_path / "run"))
    assert all(
        value is None or isinstance(value, int | float | str)
        for value in dataclasses.asdict(metrics).values()
    )


def test_korean_trains_and_samples_as_well(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "korean-novels" / "input.txt"
    if not path.is_file():
        pytest.skip(f"{data_dir} has no korean-novels/input.txt")
    metrics = list(hb.train(small_config(path, steps=160, batch_size=16), out=tmp_path / "run"))
    assert metrics[-1].val_loss is not None
    trained = hb.load(tmp_path / "run")
    assert trained.tokenizer.vocab_size == 1367
    # Far from the 7.2 nats of knowing nothing, and below the 4.77 of counting single characters.
    assert metrics[-1].val_loss < 4.77
    written = trained.generate("나는 ", max_new_tokens=60, temperature=0.8)
    assert len(written) == 60
    assert sum("가" <= letter <= "힣" for letter in written) > 20


def test_patience_stops_after_evaluations_that_bring_nothing(
    text_path: Path, tmp_path: Path
) -> None:
    # A rate far too high, so that the loss soon goes up; and one evaluation every two steps.
    hot = {"steps": 200, "eval_interval": 2, "learning_rate": 1.0, "muon_learning_rate": 1.0}
    config = small_config(text_path, patience=3, **hot)
    metrics = list(hb.train(config, out=tmp_path / "run"))
    losses = [each.val_loss for each in metrics if each.val_loss is not None]
    assert len(metrics) < 200
    assert losses.index(min(losses)) == len(losses) - 4
    assert hb.load(tmp_path / "run").step == 2 * (len(losses) - 3)
    assert hb.load(tmp_path / "run", which="last").step == metrics[-1].step
    # The same rule on going on: it has ended.
    assert list(hb.train(resume_from=tmp_path / "run")) == []
    # Until then nothing is different, and without it there is more.
    patient = hb.train(config.override(patience=0), out=tmp_path / "patient")
    longer = [each.train_loss for each in itertools.islice(patient, len(metrics) + 1)]
    assert longer[:-1] == [each.train_loss for each in metrics]
    assert len(longer) == len(metrics) + 1


def files_entered(trainer: engine.Trainer) -> list[str]:
    """The files of hornbook whose functions a training step enters."""
    package = Path(hb.__file__).parent
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(package)):
            entered.add(str(Path(frame.f_code.co_filename).relative_to(package)))

    engine.train_step(trainer)  # what the first step alone sets up is not a step's
    sys.setprofile(note)
    try:
        engine.train_step(trainer)
    finally:
        sys.setprofile(None)
    return sorted(entered)


def test_a_step_reads_in_few_files(text_path: Path, tmp_path: Path) -> None:
    """docs/architecture.md names these files, in this order of the alphabet."""
    config = small_config(text_path, compile="off", gradient_accumulation=2, dropout=0.1)
    by_torch = files_entered(engine.begin(config, out=tmp_path / "gpt"))
    joined = small_config(text_path, with_counts=True, gradient_accumulation=2, n_embd=64, n_head=4)
    with_ngrams = files_entered(engine.begin(joined, out=tmp_path / "joined"))
    assert len(by_torch) <= 8
    assert len(with_ngrams) <= 12
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    for files, name in ((by_torch, "A step of `--model gpt`"), (with_ngrams, "The default's step")):
        # Without AVX-512 or a C compiler the default's step enters fewer.
        if name.startswith("A step") or any("kernels/training" in file for file in files):
            listed = ", ".join(f"`{file}`" for file in files)
            assert f"{name} enters {len(files)} files: {listed}" in " ".join(page.split())
