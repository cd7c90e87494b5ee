"""Exports run in the engines they are for, and give there what they give here."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import environment, hornbook

import hornbook as hb
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.interop import onnx
from hornbook.interop.check import logits, normalised
from hornbook.interop.export import export
from hornbook.interop.request import ExportError, Request
from hornbook.models.schema import Schema
from hornbook.pretrained.names import names_of
from hornbook.runs.result import revisit
from hornbook.storage.disk import Disk

# Two scripts, a backslash, a quote, and characters of one to four bytes.
TEXT = 'to be, or not to be: "that" is the question. \\ 죽느냐 사느냐, 그것이 문제로다… é 🙂\n' * 60
MODELS: dict[str, dict[str, object]] = {
    "char": {},
    "byte": {"tokenizer": "byte"},
    "bpe": {"tokenizer": "bpe", "bpe_vocab_size": 320},
    "tied": {"tie_embeddings": True, "n_embd": 48, "n_layer": 1},
    "layernorm": {"model": "layernorm", "optimizer": "adamw"},
    "gpt2": {"model": "gpt2", "optimizer": "adamw", "block_size": 400, "steps": 30},
    "bigram": {"model": "bigram", "optimizer": "adamw"},
    "counts": {"with_counts": True},
}
KINDS = ("char", "byte", "bpe", "tied")
FEW = ("gpt2", "layernorm")  # those with a table of positions, which ends
PASSAGE, PROMPT = TEXT[:400], TEXT[:150]
CUT = "\ufffd"  # of a character's bytes, where a length ends the text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of each of MODELS, and their text."""
    place = tmp_path_factory.mktemp("runs")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        for name, values in MODELS.items():
            config = hb.preset("quick").override(
                **{
                    "corpus": str(place / "text.txt"),
                    "block_size": 16,
                    "n_embd": 32,
                    "n_head": 2,
                    "n_layer": 2,
                    "batch_size": 4,
                    "steps": 60,
                    "eval_interval": 30,
                    "checkpoint_interval": 30,
                    "sample_tokens": 5,
                    "precision": "float32",
                    "compile": "off",
                    **values,
                }
            )
            for _ in hb.train(config, out=place / name):
                pass
            # What the command line does after training.
            found = revisit(place / name)
            (place / name / "result.json").write_text(json.dumps(found.as_dict()))
        yield place


def loss(log_probs: np.ndarray, tokens: np.ndarray) -> float:
    return float(-log_probs[np.arange(len(tokens) - 1), tokens[1:]].mean())


def test_every_weight_has_a_name_of_its_own_in_each_format() -> None:
    schema = Schema.of(hb.preset("quick").model, 65)
    names = names_of(schema)
    assert set(names) == set(schema.weights())
    for each in zip(*names.values(), strict=True):
        assert len(set(each)) == len(names)


@pytest.mark.parametrize("kind", [*KINDS, "layernorm"])
def test_transformers_reads_tokenizer_and_model(kind: str, runs: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = export(runs / kind, Request("hf"), tmp_path / "hf")
    assert {each.engine for each in made.checked} == {f"transformers {transformers.__version__}"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert type(theirs).__name__ == (
        "GPT2LMHeadModel" if kind == "layernorm" else "Qwen3ForCausalLM"
    )
    ours = hb.load(runs / kind)
    ids = tokenizer(PASSAGE).input_ids
    assert ids == ours.tokenizer.encode(PASSAGE)
    assert tokenizer.decode(ids) == PASSAGE
    # A GPT far past its block, where only windows are right; the lecture's models have none.
    tokens = np.array(ids[:16] if kind == "layernorm" else ids[:200])
    with torch.no_grad():
        found = theirs(torch.from_numpy(tokens)[None]).logits[0].numpy()
    expected = logits(ours.model, tokens)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert abs(loss(normalised(found), tokens) - loss(normalised(expected), tokens)) < 1e-5
    if kind != "layernorm":
        more = {"do_sample": False, "max_new_tokens": 500}
        prompt = torch.tensor(tokenizer(PROMPT).input_ids)[None]
        written = theirs.generate(prompt, **more)[0, prompt.size(1) :]
        same = ours.generate(PROMPT, temperature=0, max_new_tokens=500)
        assert tokenizer.decode(written).rstrip(CUT) == same.rstrip(CUT)


@pytest.mark.parametrize("windows", [True, False], ids=["windows", "a block"])
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_it(kind: str, windows: bool, runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from hornbook.interop import gguf

    made = export(runs / kind, Request("gguf", windows=windows), tmp_path / "gguf")
    (checked,) = made.checked
    assert checked.difference < 2e-3
    ours = hb.load(runs / kind)
    server = gguf.serve(tmp_path / "gguf" / "model.gguf", 4096 if windows else 16)
    assert gguf.tokenize(server, TEXT) == ours.tokenizer.encode(TEXT)
    if windows:
        # No token may end the text: not the eleventh, which llama.cpp takes for its end by default.
        for token in range(min(40, ours.tokenizer.vocab_size)):
            bias = {"logit_bias": [[token, 100.0]], "temperature": 0}
            answer = server.handle_completions({"prompt": [1], "n_predict": 5, **bias})
            assert answer["usage"]["completion_tokens"] == 5, token
        answer = server.handle_completions({"prompt": PROMPT, "n_predict": 100, "temperature": 0})
        same = ours.generate(PROMPT, temperature=0, max_new_tokens=100)
        assert answer["choices"][0]["text"].rstrip(CUT) == same.rstrip(CUT)
    modelfile = (tmp_path / "gguf" / "Modelfile").read_text()
    assert f"num_ctx {4096 if windows else 16}\n" in modelfile


def test_a_llama_cpp_without_windows_raises_the_loss_in_silence(runs: Path, tmp_path: Path) -> None:
    """Why --no-windows holds the context to a block."""
    pytest.importorskip("xllamacpp")
    from hornbook.interop import gguf

    made = export(runs / "char", Request("gguf", windows=False), tmp_path / "gguf")
    assert "held to 16 tokens" in made.notes[0]
    server = gguf.serve(tmp_path / "gguf" / "model.gguf", 64)
    ours = hb.load(runs / "char")
    answer = server.handle_completions({"prompt": ours.tokenizer.encode(PASSAGE)[:40]})
    assert "exceeds the available context size (16 tokens)" in answer["error"]["message"]


@pytest.mark.parametrize("weights", ["f16", "bf16", "q8_0"])
def test_smaller_weights_are_measured(weights: Any, runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    exact = export(runs / "char", Request("gguf"), tmp_path / "exact")
    # Rows of 48 do not split into the groups of 32 that q8_0 has.
    for kind in ("char", "tied"):
        made = export(runs / kind, Request("gguf", weights), tmp_path / kind)
        (checked,) = made.checked
        assert weights in checked.engine
        assert checked.loss == pytest.approx(checked.hornbook_loss, abs=0.05)
        assert checked.difference > 1e-4
    size = (tmp_path / "char" / "model.gguf").stat().st_size
    assert size < 0.75 * (exact.folder / "model.gguf").stat().st_size


@pytest.mark.parametrize("kind", [*KINDS, *FEW])
def test_onnxruntime_reads_both_graphs(kind: str, runs: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = export(runs / kind, Request("onnx"), tmp_path / "onnx")
    assert len(made.checked) == 2
    ours = hb.load(runs / kind)
    most = min(50, ours.model.context_size if kind in FEW else 50)
    tokens = np.array(ours.tokenizer.encode(PASSAGE)[: 2 * most])
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / onnx.UNCACHED)
    # Two texts at once, the second of them shorter.
    first, second = tokens[:most], tokens[most : 2 * most - 10]
    rows = np.stack([first, np.concatenate([np.zeros(10, np.int64), second])])
    mask = np.stack([np.ones(most, np.int64), np.arange(most) >= 10]).astype(np.int64)
    found = session.run(None, {"input_ids": rows, "attention_mask": mask})[0]
    for part, theirs in zip((first, second), found, strict=True):
        np.testing.assert_allclose(theirs[-len(part) :], logits(ours.model, part), atol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / onnx.CACHED)
    cache, written = onnx.empty_cache(session), []
    prompt = PROMPT[: 4 if most < 50 else None]
    new, read = np.array(ours.tokenizer.encode(prompt)), 0
    length = min(200, ours.model.context_size - len(new)) if kind in FEW else 200
    for _ in range(length):
        read += len(new)
        given = {"input_ids": new[None], "attention_mask": np.ones((1, read), np.int64)}
        found, *present = session.run(None, given | cache)
        cache = dict(zip(cache, present, strict=True))
        new = found[0, -1:].argmax(axis=-1)
        written.append(int(new[0]))
    same = ours.generate(prompt, temperature=0, max_new_tokens=length)
    assert ours.tokenizer.decode(written).rstrip(CUT) == same.rstrip(CUT)
    # The layout of transformers.js.
    assert {"config.json", "tokenizer.json", "onnx/model.onnx"} <= set(made.files)


def test_the_model_card_has_the_runs_figures(runs: Path, tmp_path: Path) -> None:
    export(runs / "char", Request("hf", licence="cc-by-sa-4.0"), tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    result = json.loads((runs / "char" / "result.json").read_text())
    environment = json.loads((runs / "char" / "environment.json").read_text())
    assert f"{result['val_nats_per_char']:.4f}" in card
    assert environment["corpus_sha256"] in card
    assert "license: cc-by-sa-4.0" in card
    assert "held to 16 tokens at once" in card


def test_a_moved_text_is_replaced_by_a_generated_one(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(runs / "char", tmp_path / "char")
    here = runs / "text.txt"
    away = here.rename(runs / "moved.txt")
    try:
        made = export(tmp_path / "char", Request("onnx"), tmp_path / "one")
        assert {each.text for each in made.checked} == {"generated text"}
        made = export(tmp_path / "char", Request("onnx"), tmp_path / "two", text=str(away))
        assert {each.text for each in made.checked} == {"validation text"}
        with pytest.raises(DataError):
            export(tmp_path / "char", Request("onnx"), tmp_path / "three", text=str(here))
        assert not (tmp_path / "three").exists()
    finally:
        away.rename(here)


@pytest.mark.parametrize(
    ("run", "request_", "message"),
    [
        ("counts", {"to": "gguf"}, r"n-grams have no form in gguf.* hornbook train .*--model gpt"),
        ("bigram", {"to": "hf"}, r"no form of the model bigram; it has one of gpt and layernorm"),
        ("layernorm", {"to": "gguf"}, r"no form of the model layernorm; it has one of gpt and"),
    ],
)
def test_what_has_no_form_is_refused(
    run: str, request_: dict[str, Any], message: str, runs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(runs / run, Request(**request_), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_options_that_do_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="for --to gguf, not for hf"):
        Request("hf", weights="q8_0")
    with pytest.raises(ConfigError, match="expected an identifier"):
        Request("hf", licence="mit\nmalicious: true")


def test_an_occupied_place_and_a_run_that_is_none(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already; name a new folder"):
        export(runs / "char", Request("onnx"), tmp_path / "out")
    with pytest.raises(CheckpointError, match="not a run folder"):
        export(tmp_path / "nothing", Request("onnx"), tmp_path / "new")
    shutil.copytree(runs / "char", tmp_path / "char")
    for weights in (tmp_path / "char").rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError):
        export(tmp_path / "char", Request("onnx"), tmp_path / "new")
    assert {each.name for each in tmp_path.iterdir()} == {"out", "char"}


class FullDisk(Disk):
    """A disk with so much room."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write_some(self, descriptor: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[: self.room]
        self.room -= len(data)
        return super().write_some(descriptor, data)


@pytest.mark.parametrize("room", [0, 1000, 60_000])
def test_a_full_disk_leaves_nothing(room: int, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write the export: No space left"):
        export(runs / "char", Request("hf"), tmp_path / "hf", disk=FullDisk(room))
    assert not list(tmp_path.iterdir())


class SpoiltDisk(Disk):
    """A disk that changes the weights on their way."""

    def write(self, path: Path, data: bytes | memoryview) -> None:
        if path.name == "model.safetensors":
            data = bytes(data)[:-4] + b"\x00\x00\x80\x7f"  # infinity
        super().write(path, data)


def test_what_an_engine_computes_otherwise_is_not_kept(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ExportError, match="does not compute what hornbook does"):
        export(runs / "char", Request("hf"), tmp_path / "hf", disk=SpoiltDisk())
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(runs: Path, tmp_path: Path) -> None:
    def python(missing: str, to: str) -> str:
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            "import hornbook.cli\n"
            f"sys.exit(hornbook.cli.run(['export', {str(runs / 'char')!r}, '--to', {to!r}, "
            f"'--out', {str(tmp_path / to)!r}]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=environment(runs),
        )
        assert done.returncode == (0 if missing == "transformers" else 2), done.stderr
        return done.stderr

    install = "pip install 'hornbook[export]'"
    assert f"--to gguf needs the package gguf: {install}" in python("gguf", "gguf")
    assert f"transformers is not installed ({install})" in python("transformers", "hf")
    assert [each.name for each in tmp_path.iterdir()] == ["hf"]


def test_the_command(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    def exported(*arguments: str | Path) -> "subprocess.CompletedProcess[bytes]":
        return hornbook("export", *arguments, cwd=runs)

    out = tmp_path / "made"
    done = exported(runs / "char", "--to", "onnx", "--out", out, "--json")
    assert done.returncode == 0, done.stderr.decode()
    made = json.loads(done.stdout)
    assert made["folder"] == str(out)
    assert sorted(made["files"]) == made["files"]
    for each in made["checked"]:
        assert each["difference"] < 1e-4
        assert math.isfinite(each["loss"])
    done = exported(runs / "char", "--to", "onnx", "--out", out)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"exists already" in done.stderr
    assert exported(runs / "char", "--to", "tflite").returncode == 2
    assert exported(runs / "char").returncode == 2
