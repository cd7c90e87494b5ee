"""Models of others, and runs made of them, that mean harm: each command ends with one line.

What a folder or a GGUF file may do to `train --from` is also in tests/pretrained.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hornbook.cli import run as hornbook_command

sys.path.insert(0, str(Path(__file__).parent.parent / "pretrained"))
import foreign

pytest.importorskip("transformers")
SHORT = ["--set=block_size=16", "--set=batch_size=2", "--set=precision=float32",
         "--set=compile=off", "--set=sample_tokens=3", "--steps=1", "--json"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small Llama, a text, and a run that began with it."""
    root = tmp_path_factory.mktemp("hostile")
    foreign.save(foreign.make("llama"), root / "llama")
    (root / "text.txt").write_text(foreign.TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(root / "cache"))
        start = ["train", str(root / "text.txt"), "--from", str(root / "llama"), *SHORT]
        assert hornbook_command([*start, "--no-page", "--out", str(root / "run")]) == 0
    return root


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(made / "cache"))
    for name in ("llama", "run"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def seal(run: Path) -> None:
    """Make the hashes that a run records those of its files as they are now."""

    def renew(recorded: dict[str, Any]) -> None:
        for name in recorded["files"]:
            data = (run / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            recorded["files"][name] = {"bytes": len(data), "sha256": digest}

    changed(run / "run.json", renew)


def assert_refused(
    arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str], status: int | None = None
) -> str:
    capsys.readouterr()
    found = hornbook_command(arguments)
    assert found in ((1, 2) if status is None else (status,))
    error = capsys.readouterr().err
    (line,) = [each for each in error.splitlines() if each.startswith("hornbook: ")]
    assert error.rstrip().endswith(line)
    assert not out.exists()
    assert not list(out.parent.glob(f".*{out.name}*"))
    return line


FOLDERS: dict[str, Callable[[Path], object]] = {
    "a width beyond memory": lambda at: changed(
        at / "config.json", lambda c: c.update(hidden_size=1 << 19, intermediate_size=1 << 23)
    ),
    "more layers than weights": lambda at: changed(
        at / "config.json", lambda c: c.update(num_hidden_layers=1000)
    ),
    "a name of code": lambda at: changed(
        at / "config.json", lambda c: c.update(model_type="../../evil", auto_map={"a": "b.py"})
    ),
    "a number that is none": lambda at: changed(
        at / "config.json", lambda c: c.update(rms_norm_eps=float("nan"))
    ),
    "a token twice": lambda at: changed(
        at / "tokenizer.json", lambda t: t["added_tokens"].append(t["added_tokens"][0] | {"id": 7})
    ),
    "a pattern without end": lambda at: changed(
        at / "tokenizer.json",
        lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
    ),
    "weights cut off": lambda at: (at / "model.safetensors").write_bytes(
        (at / "model.safetensors").read_bytes()[:-64]
    ),
    "a header without end": lambda at: (at / "model.safetensors").write_bytes(b"\xff" * 64),
    "weights that are a folder": lambda at: (
        (at / "model.safetensors").unlink(), (at / "model.safetensors").mkdir()
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_hostile_folder_begins_nothing(
    case: str, home: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FOLDERS[case](home / "llama")
    out = home / "new"
    start = ["train", str(made / "text.txt"), "--from", str(home / "llama"), *SHORT]
    assert_refused([*start, "--out", str(out)], out, capsys)


TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for i in range(10 ** 9) %}a{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{{ raise_exception('no') }}",
    "{% for",
    "{{ 'a' * 9999999999 }}",
    "{{ 9 ** 9 ** 9 }}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_hostile_template_runs_nothing(
    template: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(home / "run" / "environment.json", lambda facts: facts.update(chat_template=template))
    seal(home / "run")
    out = home / "exported"
    # The file gets it as it is: it is no program of ours that would run it.
    assert hornbook_command(["export", str(home / "run"), "--to", "hf", "--out", str(out)]) == 0
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == template
    generation = json.loads((out / "generation_config.json").read_bytes())
    assert generation["eos_token_id"] is None
    capsys.readouterr()


RUNS: dict[str, Callable[[Path], object]] = {
    "another shape": lambda at: (at / "config.toml").write_text(
        (at / "config.toml").read_text(encoding="utf-8").replace("n_kv_head = 2", "n_kv_head = 4"),
        encoding="utf-8",
    ),
    "a shape beyond memory": lambda at: (at / "config.toml").write_text(
        (at / "config.toml").read_text(encoding="utf-8").replace("n_embd = 32", "n_embd = 1048576"),
        encoding="utf-8",
    ),
    "no tokenizer": lambda at: (at / "tokenizer.json").write_text("[]", encoding="utf-8"),
}


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx"])
@pytest.mark.parametrize("case", RUNS)
def test_a_hostile_run_is_not_exported(
    case: str, to: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RUNS[case](home / "run")
    seal(home / "run")
    out = home / "exported"
    assert_refused(["export", str(home / "run"), "--to", to, "--out", str(out)], out, capsys)
