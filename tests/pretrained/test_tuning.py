"""Training that begins with another model: its loss before, all weights or LoRA, resuming."""

import json
from pathlib import Path

import foreign
import pytest
import torch
from commands import hornbook
from small import SMALL, TEXT, small_config, small_gpt

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.config import Config
from hornbook.errors import ConfigError
from hornbook.models.gpt import GPT
from hornbook.models.lora import adapt, merge
from hornbook.models.registry import build
from hornbook.pretrained.find import open_source
from hornbook.pretrained.run_source import GrownAlphabetWarning, knowing
from hornbook.runs.verify import verify
from hornbook.text.corpus import read_corpus
from hornbook.training import begin, resume

pytest.importorskip("transformers")
SHORT = ["--set", "block_size=16", "--set", "batch_size=2", "--set", "sample_tokens=3",
         "--set", "precision=float32", "--set", "compile=off", "--json"]  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.save(foreign.make("llama"), tmp_path_factory.mktemp("models") / "llama")


def train(*arguments: object) -> int:
    return hornbook_command(["train", *map(str, arguments), *SHORT])


@pytest.mark.parametrize("lora", [False, True])
def test_a_folder_is_trained_on_and_its_loss_before_is_printed(
    lora: bool, llama: Path, text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ["--lora", 4] if lora else []
    assert train(text_path, "--from", llama, "--steps", 30, "--set", "learning_rate=0.01",
                 "--out", out, *more) == 0  # fmt: skip
    figures = json.loads(capsys.readouterr().out)
    before = figures["pretrained"]["val_nats_per_char"]
    assert figures["val_nats_per_char"] < before - 0.1
    assert figures["pretrained"]["general"] == "python-docs"
    assert figures["pretrained"]["general_nats_per_char_after"] > 0
    assert figures["pretrained"]["facts"]["architecture"] == "llama"
    assert verify(out).sound
    trained = hb.load(out)
    assert isinstance(trained.model, GPT)
    assert trained.model.parameter_count == figures["parameters"]
    assert not any("lora" in name for name in trained.model.state_dict())
    assert hb.load(out).generate("to be", max_new_tokens=4)
    assert hornbook_command(["sample", str(out), "--max-new-tokens", "4"]) == 0
    assert hornbook_command(["train", "--resume", str(out), "--steps", "31", "--json"]) == 0


def test_minutes_are_planned(llama: Path, text_path: Path, tmp_path: Path) -> None:
    # In a process of its own: minutes count from the start of the process.
    done = hornbook(
        "train", text_path, "--from", llama, "--minutes", "5", "--dry-run", *SHORT, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode()
    planned = json.loads(done.stdout)
    assert set(planned["reasons"]) == {"weights", "portions", "rate", "compile", "memory"}
    settings = planned["settings"]
    assert settings["model"]["n_kv_head"] == 2
    assert settings["optimizer"]["optimizer"] == "adamw"
    assert settings["optimizer"]["learning_rate"] == 2e-4


def test_what_all_weights_need_decides(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hornbook.config import Request
    from hornbook.plan import machine, memory, tuning
    from hornbook.plan.costs import Text
    from hornbook.plan.timing import StepTime

    source = open_source(str(llama))
    request = Request.of(Config().override(pretrained="x", minutes=10.0, device="cpu"))
    request = source.under(request)
    # SmolLM2-135M's sizes.
    sizes = {"n_layer": 30, "n_head": 9, "n_kv_head": 3, "n_embd": 576, "head_width": 64,
             "mlp_width": 1536, "block_size": 256, "context_length": 2048}  # fmt: skip
    request = request.layer({"preset": sizes})
    text = Text(300_000, 30_000, 49_152)
    found = {}
    for gigabytes in (16.0, 2.2):
        monkeypatch.setattr(memory, "available_bytes", lambda size=gigabytes: int(size * 1e9))
        chosen = machine.choose(request.config)
        plan = tuning.plan_tuning(
            request, text, chosen, 600, timer=lambda *_: StepTime(1e-3, 0.0, 0.1)
        )
        found[gigabytes] = plan.config
        assert tuning.peak(plan.config, text, chosen) < min(gigabytes, 3.0) * 1e9
    assert found[16.0].model.lora_rank is None
    assert found[16.0].train.compile == "off" or not found[16.0].train.recompute
    assert found[2.2].model.lora_rank == tuning.LORA_RANK
    assert found[2.2].optimizer.learning_rate == tuning.LORA_RATE


def test_a_shape_cannot_be_asked_for(llama: Path, text_path: Path) -> None:
    assert train(text_path, "--from", llama, "--steps", 1, "--set", "n_layer=3") == 2
    assert train(text_path, "--from", llama, "--steps", 1, "--preset", "quick") == 2
    assert train(text_path, "--from", llama, "--steps", 1, "--tokenizer", "char") == 2
    assert train(text_path, "--lora", 4, "--steps", 1) == 2
    assert train(text_path, "--tokenizer", "pretrained", "--steps", 1) == 2


def test_lora_trains_its_factors_alone_and_merging_changes_nothing() -> None:
    model = small_gpt()
    frozen = {name: each.clone() for name, each in model.state_dict().items()}
    adapt(model, 3)
    idx = torch.randint(11, (2, 16))
    before, _ = small_gpt()(idx)
    torch.testing.assert_close(model(idx)[0], before)
    _, loss = model(idx, idx)
    loss.backward()
    trained = {name for name, each in model.named_parameters() if each.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if ".lora." in name}
    with torch.no_grad():
        for name, each in model.named_parameters():
            if name.endswith("lora.up"):
                each.normal_(std=0.1)
    changed, _ = model(idx)
    merge(model)
    torch.testing.assert_close(model(idx)[0], changed, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == set(frozen)


def test_a_run_goes_on_with_another_text_and_its_alphabet_grows(
    text_path: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    list(hb.train(small_config(text_path, compile="off"), out=first))
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("question", "queſtion!§"), encoding="utf-8")
    config = small_config(other, compile="off").override(pretrained=str(first), steps=2)
    second = tmp_path / "second"
    with pytest.warns(GrownAlphabetWarning, match="3 new characters"):
        rows = list(hb.train(config, out=second))
    old, new = hb.load(first), hb.load(second, which="last")
    assert set(new.tokenizer.chars) - set(old.tokenizer.chars) == set("ſ!§")
    # Better than a fresh one: the uniform guess over the alphabet is where those begin.
    fresh = list(hb.train(config.override(pretrained=None), out=tmp_path / "fresh"))
    assert rows[0].train_loss < fresh[0].train_loss - 0.05
    source = open_source(str(first))
    with pytest.warns(GrownAlphabetWarning):
        grown = knowing(source, read_corpus(str(other)))
    model = GPT(old.config.model, grown.tokenizer.vocab_size)
    grown.load_into(model)
    table, before = model.embedding.weight, old.model.embedding.weight
    assert torch.equal(table[grown.tokenizer.stoi["t"]], before[old.tokenizer.stoi["t"]])
    torch.testing.assert_close(table[grown.tokenizer.stoi["§"]], before.mean(dim=0))


def SMALL_OF(run: Path):  # noqa: N802
    return hb.load(run).config.model


def test_a_run_with_n_grams_goes_on_with_its_gate(text_path: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    config = small_config(text_path, with_counts=True, compile="off")
    list(hb.train(config, out=first))
    other = tmp_path / "other.txt"
    other.write_text(TEXT.upper() + TEXT, encoding="utf-8")
    with pytest.warns(GrownAlphabetWarning):
        trainer = begin(
            small_config(other, compile="off").override(pretrained=str(first)), out=second
        )
    trainer.lock.release()
    old = hb.load(first).model
    assert trainer.config.model.with_counts
    assert torch.equal(trainer.state.model.evidence.weight, old.evidence.weight)
    assert torch.equal(
        trainer.state.model.network.blocks[0].mlp.up.weight, old.network.blocks[0].mlp.up.weight
    )


def test_n_grams_alone_are_nothing_to_begin_from(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "ngram"
    list(hb.train(hb.preset("ngram").override(corpus=str(text_path)), out=out))
    with pytest.raises(hb.HornbookError, match="counted anew"):
        open_source(str(out))


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_same_weights(
    llama: Path, text_path: Path, tmp_path: Path
) -> None:
    config = small_config(text_path, compile="off", block_size=16).override(pretrained=str(llama))
    config = config.override(n_layer=4, n_embd=128)  # the defaults, which count as not requested
    trainer = begin(config, out=tmp_path / "run")
    trainer.lock.release()
    expected = trainer.state.model.blocks[1].mlp.up.weight.clone()
    again = resume(tmp_path / "run")
    again.lock.release()
    assert torch.equal(again.state.model.blocks[1].mlp.up.weight, expected)
    assert again.start == trainer.start


def test_dropped_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="head_width = 7"):
        Config().override(head_width=7)
    with pytest.raises(ConfigError, match="n_kv_head = 3"):
        Config().override(n_kv_head=3)
    assert SMALL.context_length is None


@pytest.mark.parametrize(
    ("to", "engine", "kind"),
    [
        *(("hf", "transformers", kind) for kind in ("llama3", "qwen3", "gpt2")),
        *(("onnx", "onnxruntime", kind) for kind in ("llama3", "qwen3", "gpt2")),
        *(("gguf", "xllamacpp", kind) for kind in ("llama", "llama3", "qwen3", "gpt2")),
    ],
)
def test_a_tuned_model_goes_back_and_begins_again(
    to: str, engine: str, kind: str, text_path: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The export is compared with ours in the engine before it gets its name."""
    pytest.importorskip(engine)
    folder = foreign.save(foreign.make(kind), tmp_path / kind)
    run, out = tmp_path / "run", tmp_path / "exported"
    factors = [] if kind == "gpt2" else ["--lora", 2]
    assert train(text_path, "--from", folder, "--steps", 2, *factors, "--out", run) == 0
    capsys.readouterr()
    assert hornbook_command(["export", str(run), "--to", to, "--out", str(out), "--json"]) == 0
    for checked in json.loads(capsys.readouterr().out)["checked"]:
        # llama.cpp reads GELU from a table of float16.
        assert checked["difference"] < (2e-3 if (to, kind) == ("gguf", "gpt2") else 1e-4)
    if to == "onnx":
        return
    if (to, kind) == ("gguf", "llama3"):  # it is read only with Llama 3's own lengths
        return
    again, tuned = open_source(str(out if to == "hf" else out / "model.gguf")), hb.load(run)
    assert again.chat_template == foreign.TEMPLATE
    model = build(tuned.config.model, again.tokenizer.vocab_size)
    again.load_into(model)
    for name, weight in tuned.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    text = "whether 'tis 42 <|im_end|>\n"
    assert again.tokenizer.encode(text) == tuned.tokenizer.encode(text)
    if to == "gguf":
        modelfile = (out / "Modelfile").read_text(encoding="utf-8")
        assert 'PARAMETER stop "<|im_end|>"' in modelfile
        assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n" in modelfile
