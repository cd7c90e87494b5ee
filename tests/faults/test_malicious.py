"""Files that mean harm, in every place from which hornbook reads: nothing runs, one clear line.

The attacker has written the whole run folder, hashes included, and the token cache. What must
hold of every case: nothing was executed, nothing written outside the run, memory bounded, and
either the command works (the file was passed over) or it ends with one line and status 1 or 2.
"""

import hashlib
import io
import json
import marshal
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sandbox import CONTROL, Sandbox

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the sandbox forks")

Spoil = Callable[[Path], object]
DEEP = 100_000


class Payload:
    """What a pickle of this does when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as server:
        yield server


@pytest.fixture
def home(sandbox: Sandbox, tmp_path: Path) -> Path:
    """A folder with the sandbox's trained run and token cache, to be spoiled."""
    for name in ("run", "run-bpe", "cache", "ladder"):
        shutil.copytree(sandbox.home / name, tmp_path / name)
    (tmp_path / "outside").mkdir()
    return tmp_path


def seal(home: Path) -> None:
    """Make every recorded size and hash those of the files as they are now."""
    for manifest in home.rglob("manifest.json"):
        files = [path for path in manifest.parent.iterdir() if path != manifest]
        manifest.write_text(json.dumps({path.name: entry(path) for path in files}))
    for manifest in home.rglob("run.json"):
        recorded = json.loads(manifest.read_bytes())
        recorded["files"] = {name: entry(manifest.with_name(name)) for name in recorded["files"]}
        manifest.write_text(json.dumps(recorded))


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file; of a pipe or a device, that it is empty."""
    data = path.read_bytes() if is_small(path) else b""
    size = path.stat().st_size if path.exists() else 0
    return {"bytes": size, "sha256": hashlib.sha256(data).hexdigest()}


def is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < 2**30


def text(content: str | bytes) -> Spoil:
    """Replace the file's content."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: path.write_bytes(data)


def edited(change: Callable[[Any], object]) -> Spoil:
    """Change the file's JSON: `change` alters the document, or gives another."""

    def spoil(path: Path) -> None:
        document = json.loads(path.read_bytes())
        other = change(document)
        path.write_text(json.dumps(document if other is None else other))

    return spoil


def put(**values: Any) -> Spoil:
    return edited(lambda document: document.update(values))


def link(target: str) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return spoil


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def sparse(size: int) -> Spoil:
    """A file of zeros that takes no room on the disk."""
    return lambda path: os.truncate(path, size)


def torch_save() -> bytes:
    """A file as torch.save writes it, with a payload in its pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(), protocol=2))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def tensors(header: object, data: bytes = b"", length: int | None = None) -> Spoil:
    """A safetensors file with this header; `length` is what it says of the header's length."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text(struct.pack("<Q", len(head) if length is None else length) + head + data)


def weights(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the tensors of a safetensors file, as numpy arrays by name."""
    from safetensors.numpy import load, save

    def spoil(path: Path) -> None:
        found = load(path.read_bytes())
        change(found)
        path.write_bytes(save(found))

    return spoil


def every(value: float) -> Spoil:
    def fill(found: dict[str, Any]) -> None:
        for array in found.values():
            array[...] = value

    return weights(fill)


def f32(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def npy(descr: object, shape: object, data: bytes = b"", fortran: bool = False) -> Spoil:
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    return raw_npy(header, data)


def raw_npy(header: bytes, data: bytes = b"") -> Spoil:
    return text(b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data)


def array(value: Any) -> Spoil:
    def spoil(path: Path) -> None:
        np.save(path, value, allow_pickle=True)

    return spoil


NOT_JSON: dict[str, Spoil] = {
    "empty": text(""),
    "null": text("null"),
    "a number": text("1e999"),
    "a list": text("[]"),
    "an empty object": text("{}"),
    "nested deep": text("[" * DEEP),
    "nested deep in objects": text('{"a":' * DEEP),
    "a number of 5,000 digits": text('{"step": ' + "9" * 5000 + "}"),
    "not a number": text('{"step": NaN}'),
    "keys twice": text('{"step": 1, "step": 2}'),
    "not UTF-8": text(b"\xff\xfe{}"),
    "NUL bytes": text(b"\0" * 100),
    "a pickle": text(pickle.dumps(Payload())),
    "marshalled code": text(marshal.dumps(compile("import os", "x", "exec"))),
    "a zip of a pickle": text(torch_save()),
    "a pipe": fifo,
    "a folder": folder,
    "an endless device": link("/dev/zero"),
    "a link to itself": link("self"),
    "a terabyte": sparse(2**40),
}

BYTES_VOCAB_SIZE = 256


def respelt(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the model of a tokenizer.json."""
    return edited(lambda document: change(document["model"]) and None)


TOKENIZER: dict[str, Spoil] = {
    **NOT_JSON,
    "an id below zero": respelt(lambda model: model["vocab"].update({" ": -1})),
    "an id of 2**63": respelt(lambda model: model["vocab"].update({" ": 2**63})),
    "an id of 10**4000": respelt(lambda model: model["vocab"].update({" ": 10**4000})),
    "an id that is no number": respelt(lambda model: model["vocab"].update({" ": float("nan")})),
    "an id that is true": respelt(lambda model: model["vocab"].update({" ": True})),
    "half a surrogate pair": respelt(lambda model: model.update(vocab={"\ud800": 0})),
    "escape codes": respelt(lambda model: model["vocab"].update({"\x1b[31m": 99})),
    "a giant token": respelt(lambda model: model["vocab"].update({"a" * 10**7: 99})),
    "no vocabulary": respelt(lambda model: model.update(vocab={})),
    "more characters than weights": respelt(
        lambda model: model.update(vocab={chr(0x4E00 + i): i for i in range(20_000)})
    ),
    "another model": respelt(lambda model: model.update(type="Unigram")),
    "a regex that never ends": put(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": r"(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        }
    ),
    "a normalizer that grows": put(
        normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "a" * 1000}
    ),
    "added tokens": put(added_tokens=[{"id": 2**60, "content": "x", "special": True}]),
    "a list for a type": put(model={"type": [], "vocab": {}}),
}

BPE_TOKENIZER: dict[str, Spoil] = {
    "merges in a circle": respelt(lambda model: model.update(merges=[["a", "b"], ["ab", "a"]])),
    "a merge of nothing": respelt(lambda model: model.update(merges=[["", "a"]])),
    "merges that are words": respelt(lambda model: model.update(merges=["a b"])),
    "a merge 200,000 times": respelt(
        lambda model: model.update(merges=model["merges"][:1] * 200_000)
    ),
    "an id of 2**32": respelt(lambda model: model["vocab"].update({"zz": 2**32})),
    "a token of another alphabet": respelt(lambda model: model["vocab"].update({"漢": 260})),
}

TOML: dict[str, Spoil] = {
    **{name: NOT_JSON[name] for name in NOT_JSON if name not in ("empty", "an empty object")},
    "a number of 5,000 digits": text("[train]\nsteps = " + "9" * 5000),
    "arrays in arrays": text("a = " + "[" * DEEP),
    "tables in tables": text("[" + "a." * DEEP + "a]"),
    "a table twice": text("[data]\n[data]"),
    "a key twice": text("[train]\nsteps = 1\nsteps = 2"),
    "a section that is a number": text("train = 1"),
    "sections in a list": text("[[train]]\nsteps = 1"),
    "a date": text("[train]\nsteps = 1979-05-27"),
    "a million keys": text("".join(f"a{i} = 1\n" for i in range(1_000_000))),
    "escape codes": text('"\\u001b[31m" = 1'),
    "n_layer without end": text("[model]\nn_layer = 1099511627776"),
    "n_embd without end": text("[model]\nn_embd = 1099511627776"),
    "n_head without end": text("[model]\nn_head = 1099511627776\nn_embd = 2199023255552"),
    "block_size without end": text("[model]\nblock_size = 1099511627776"),
    "another model's": text('[model]\nmodel = "lecture"'),
    "another rung": text('[model]\nmodel = "bigram"'),
}

WEIGHTS: dict[str, Spoil] = {
    **{name: NOT_JSON[name] for name in ("empty", "NUL bytes", "a pickle", "marshalled code")},
    **{name: NOT_JSON[name] for name in ("a zip of a pickle", "a pipe", "a folder")},
    **{name: NOT_JSON[name] for name in ("an endless device", "a link to itself", "a terabyte")},
    "a header of 2**63 bytes": tensors({}, length=2**63),
    "a header of 2**64 - 1 bytes": tensors({}, length=2**64 - 1),
    "a header of 90 MB that is not there": tensors({}, length=90_000_000),
    "a header of no bytes": tensors(b"", length=0),
    "a header of spaces": tensors(b" " * 1_000_000),
    "a header nested deep": tensors(b'{"a":' * DEEP),
    "a header with NaN": tensors(b'{"a": NaN}'),
    "a header that is a list": tensors([]),
    "no tensors": tensors({}),
    "offsets beyond the end": tensors({"a": f32([4], [0, 16])}),
    "offsets backwards": tensors({"a": f32([4], [16, 0])}, bytes(16)),
    "offsets below zero": tensors({"a": f32([4], [-16, 0])}, bytes(16)),
    "offsets of 2**63": tensors({"a": f32([4], [2**63, 2**63 + 16])}, bytes(16)),
    "tensors that overlap": tensors({"a": f32([4], [0, 16]), "b": f32([4], [0, 16])}, bytes(16)),
    "a hole between tensors": tensors({"a": f32([4], [8, 24])}, bytes(24)),
    "a shape that overflows": tensors({"a": f32([2**62, 4], [0, 0])}),
    "a shape with zero and 2**63": tensors({"a": f32([0, 2**63], [0, 0])}),
    "a shape of a million ones": tensors({"a": f32([1] * 1_000_000, [0, 4])}, bytes(4)),
    "a type nobody knows": tensors({"a": f32([1], [0, 8], "PICKLE")}, bytes(8)),
    "a name that climbs": tensors({"../../x": f32([1], [0, 4])}, bytes(4)),
    "a name with escape codes": tensors({"\x1b[31m\n": f32([1], [0, 4])}, bytes(4)),
    "ten thousand tensors": tensors({f"t{i}": f32([0], [0, 0]) for i in range(10_000)}),
    "weights of whole numbers": weights(
        lambda found: found.update({name: np.ones(a.shape, np.int64) for name, a in found.items()})
    ),
    "one tensor missing": weights(lambda found: found.pop(min(found))),
    "one tensor turned": weights(lambda found: found.update({min(found): found[min(found)].T})),
    "weights that are not numbers": every(float("nan")),
    "weights without end": every(float("inf")),
}

# All of a file is hashed by `verify`, a terabyte too.
HASHED = {name: spoil for name, spoil in WEIGHTS.items() if name != "a terabyte"}

STATE: dict[str, Spoil] = {
    **NOT_JSON,
    "a step below zero": put(step=-1),
    "a step of 2**70": put(step=2**70),
    "a step that is a word": put(step="1"),
    "a step that is no number": put(step=float("nan")),
    "a step that is true": put(step=True),
    "no step": edited(lambda state: state.pop("step") and None),
    "nothing but a step": edited(lambda state: {"format": state["format"], "step": 4}),
    "another format": put(format=99),
    "a format that is true": put(format=True),
    "seconds that are a word": put(seconds="long"),
    "seconds that are not a number": put(seconds=float("nan")),
    "a best loss that is a word": put(best_loss="low"),
    "random numbers that are none": put(random_state=[]),
    "random numbers that are words": put(random_state=["a"]),
    "random numbers of other sizes": put(random_state=[300] * 5056),
    "random numbers in lists": put(random_state=[[[]]]),
    "random numbers that are zero": put(random_state=[0] * 5056),
    "random numbers for no GPU": put(cuda_random_state=[10**30]),
}

MANIFEST: dict[str, Spoil] = {
    **NOT_JSON,
    "a name that climbs": put(**{"../../config.toml": {"bytes": 1, "sha256": ""}}),
    "a name from the root": put(**{"/etc/passwd": {"bytes": 1, "sha256": ""}}),
    "a name that is a dot": put(**{".": {"bytes": 4096, "sha256": ""}}),
    "a name with NUL": put(**{"a\0b": {"bytes": 4096, "sha256": ""}}),
    "half a surrogate pair": put(**{"\ud800": {"bytes": 4096, "sha256": ""}}),
    "escape codes": put(**{"\x1b[31m": {"bytes": 4096, "sha256": ""}}),
    "a name of two lines": put(**{"a\nb": {"bytes": 4096, "sha256": ""}}),
    "a size below zero": put(**{"state.json": {"bytes": -1, "sha256": ""}}),
    "a size of 2**70": put(**{"state.json": {"bytes": 2**70, "sha256": ""}}),
    "a hash that is a list": put(**{"state.json": {"bytes": 1, "sha256": []}}),
    "a size without end": text('{"state.json": {"bytes": Infinity, "sha256": ""}}'),
    "no weights": edited(lambda files: files.pop("model.safetensors") and None),
    "no optimizer": edited(lambda files: files.pop("optimizer.safetensors") and None),
    "no state": edited(lambda files: files.pop("state.json") and None),
    "an entry that is null": put(**{"state.json": None}),
}

RUN_MANIFEST: dict[str, Spoil] = {
    **NOT_JSON,
    "another format": put(format=99),
    "a format that is a word": put(format="2"),
    "no files": put(files={}),
    "files in a list": put(files=[]),
    "a name that climbs": put(files={"../x": {"bytes": 1, "sha256": ""}}),
    "a size of 2**70": put(files={"config.toml": {"bytes": 2**70, "sha256": ""}}),
}

METRICS: dict[str, Spoil] = {
    **{name: NOT_JSON[name] for name in ("nested deep", "not UTF-8", "a pipe", "a folder")},
    **{name: NOT_JSON[name] for name in ("an endless device", "a terabyte")},
    "rows of nothing but a step": text('{"step": 1}\n{"step": 2}\n'),
    "a loss that is a word": text('{"step": 1, "train_loss": "low", "val_loss": null}\n'),
    "a loss that is not a number": text('{"step": 1, "train_loss": NaN, "val_loss": NaN}\n'),
    "a loss that is a list": text('{"step": 1, "train_loss": [1], "val_loss": [[1]]}\n'),
    "a step of 4,000 digits": text('{"step": %s, "train_loss": 1, "val_loss": 1}\n' % ("9" * 4000)),
    "a step below zero": text('{"step": -5, "train_loss": 1, "val_loss": 1}\n'),
    "one line of a hundred million": text(b"[" * 100_000_000),
}

ENVIRONMENT: dict[str, Spoil] = {
    **NOT_JSON,
    "a hash that is a list": put(corpus_sha256=[[]] * 1000),
    "a giant hash": put(corpus_sha256="a" * 10_000_000),
    "escape codes for a hash": put(corpus_sha256="\x1b[31m\n"),
}

TOKENS: dict[str, Spoil] = {
    **{name: NOT_JSON[name] for name in ("empty", "NUL bytes", "a pickle", "marshalled code")},
    **{name: NOT_JSON[name] for name in ("a zip of a pickle", "a pipe", "a folder")},
    **{name: NOT_JSON[name] for name in ("an endless device", "a link to itself")},
    "a hundred million zeros": sparse(10**8),
    "pickled objects": array(np.array([Payload()] * 8, dtype=object)),
    "objects by the header": npy("|O", (8,), pickle.dumps(Payload())),
    "a shape beyond the file": npy("|u1", (2**40,), bytes(8)),
    "a shape that overflows": npy("<u8", (2**62, 2**62), bytes(8)),
    "a shape below zero": npy("|u1", (-1,), bytes(8)),
    "a shape that is code": raw_npy(b"{'descr': '|u1', 'shape': (__import__('os'),)}"),
    "a header of a gigabyte": text(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**30)),
    "a header nested deep": raw_npy(b"(" * 9000),
    "no tokens": array(np.zeros(0, np.uint8)),
    "two dimensions": array(np.zeros((100, 100), np.uint8)),
    "no dimension": array(np.uint8(1)),
    "numbers with a point": array(np.full(1107, np.nan)),
    "records": array(np.zeros(100, dtype=[("a", "u1"), ("b", "f8")])),
    "dates": array(np.zeros(100, dtype="M8[s]")),
    "tokens that nobody knows": array(np.full(1107, 255, np.uint8)),
    "tokens below zero": array(np.full(1107, -1, np.int64)),
    "a header of another order": npy("|u1", (4, 2), bytes(8), fortran=True),
}

RESULT: dict[str, Spoil] = {
    **NOT_JSON,
    "words for figures": edited(lambda result: dict.fromkeys(result, "a")),
    "lists for figures": edited(lambda result: {name: [[]] for name in result}),
    "baselines that are a number": put(baselines_nats_per_char=1),
}

SAMPLE = ["sample", "run", "--max-new-tokens", "4"]
SAMPLE_BPE = ["sample", "run-bpe", "--prompt", "to be", "--max-new-tokens", "4"]
EVALUATE = ["eval", "run"]
RESUME = ["train", "--resume", "run"]
VERIFY = ["verify", "run"]
LADDER = ["ladder", "TEXT", "--rungs", "bigram", "--steps", "2", "--out", "ladder"]


def at(word: str, sandbox: Sandbox) -> str:
    """A word of a command; TEXT is the text that the sandbox's runs were trained on."""
    return str(sandbox.home / "text.txt") if word == "TEXT" else word


# Place, what to do to the file there, and the command that reads it.
PLACES: list[tuple[str, dict[str, Spoil], list[str]]] = [
    ("run/tokenizer.json", TOKENIZER, SAMPLE),
    ("run-bpe/tokenizer.json", BPE_TOKENIZER, SAMPLE_BPE),
    ("run/config.toml", TOML, SAMPLE),
    ("run/checkpoints/best-00000004/model.safetensors", WEIGHTS, SAMPLE),
    ("run/checkpoints/step-00000004/optimizer.safetensors", WEIGHTS, RESUME),
    ("run/checkpoints/step-00000004/state.json", STATE, RESUME),
    ("run/checkpoints/step-00000004/manifest.json", MANIFEST, RESUME),
    ("run/environment.json", ENVIRONMENT, EVALUATE),
    ("run/metrics.jsonl", METRICS, RESUME),
    ("cache/tokens/*/train.npy", TOKENS, RESUME),
    ("cache/tokens/*/validation.npy", TOKENS, EVALUATE),
    ("ladder/bigram-1337/result.json", RESULT, LADDER),
    ("run/run.json", RUN_MANIFEST, SAMPLE),
    # The same files under the eyes of the command that is there to judge them.
    ("run/config.toml", TOML, VERIFY),
    ("run/tokenizer.json", NOT_JSON, VERIFY),
    ("run/environment.json", NOT_JSON, VERIFY),
    ("run/run.json", NOT_JSON, VERIFY),
    ("run/metrics.jsonl", NOT_JSON, VERIFY),
    ("ladder/bigram-1337/result.json", RESULT, ["verify", "ladder/bigram-1337"]),
    ("run/checkpoints/step-00000004/model.safetensors", HASHED, VERIFY),
    ("run/checkpoints/step-00000004/state.json", NOT_JSON, VERIFY),
    ("run/checkpoints/step-00000004/manifest.json", MANIFEST, VERIFY),
]
SEALED = ("manifest.json", "run.json")
CASES = [
    pytest.param(place, spoil, command, id=f"{place}: {name}")
    for place, spoils, command in PLACES
    for name, spoil in spoils.items()
]


@pytest.mark.parametrize(("place", "spoil", "command"), CASES)
def test_a_malicious_file_is_refused_or_passed_over(
    sandbox: Sandbox, home: Path, place: str, spoil: Spoil, command: list[str]
) -> None:
    found = list(home.glob(place))
    assert found, place
    for path in found:
        spoil(path)
    if not place.endswith(SEALED):
        seal(home)
    outcome = sandbox.trial([at(word, sandbox) for word in command], home)
    assert outcome.complaints(allowed=(0, 1, 2)) == []
    assert not (home / "executed").exists()


# Links that lead out of the run, each where hornbook would write.
LINKS = [
    ("run/metrics.jsonl", RESUME),
    ("run/sample.txt", RESUME),
    ("run/result.json", RESUME),
    ("run/report.html", RESUME),
    ("run/.lock", RESUME),
    ("run/.writing-metrics.jsonl", RESUME),
    ("run/.writing-sample.txt", RESUME),
    ("run/.writing-result.json", RESUME),
    ("run/checkpoints/.writing-step-00000005", RESUME),
    ("run/checkpoints/step-00000005", RESUME),
    ("ladder/ladder.json", LADDER),
    ("ladder/ladder.svg", LADDER),
    ("ladder/.writing-ladder.json", LADDER),
]


@pytest.mark.parametrize(("place", "command"), LINKS)
@pytest.mark.parametrize("target", ["a file", "a folder", "nothing"])
def test_a_link_out_of_the_run_is_not_written_through(
    sandbox: Sandbox,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    place: str,
    command: list[str],
    target: str,
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a file").write_text("mine")
    (outside / "a folder").mkdir()
    (outside / "a folder" / "kept").write_text("mine")
    path = home / place
    link(str(outside / target))(path)
    outcome = sandbox.trial([at(word, sandbox) for word in command], home)
    assert outcome.complaints(allowed=(0, 1, 2)) == []
    assert (outside / "a file").read_text() == "mine"
    assert [entry.name for entry in (outside / "a folder").iterdir()] == ["kept"]
    assert (outside / "a folder" / "kept").read_text() == "mine"
    assert not (outside / "nothing").exists()


def test_checkpoints_elsewhere_are_not_written(
    sandbox: Sandbox, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (home / "run" / "checkpoints").rename(outside / "checkpoints")
    (home / "run" / "checkpoints").symlink_to(outside / "checkpoints")
    before = sorted(outside.rglob("*"))
    outcome = sandbox.trial(RESUME, home)
    assert outcome.complaints(allowed=(1,)) == []
    assert "symbolic link" in outcome.stderr
    assert sorted(outside.rglob("*")) == before


def test_the_sandbox_sees_what_it_is_to_see(sandbox: Sandbox, home: Path) -> None:
    outcome = sandbox.trial(CONTROL, home)
    seen = " ".join(outcome.events)
    assert [
        event for event in ("pickle.find_class", "os.system", "open") if event not in seen
    ] == []
    assert outcome.grown_mib > 150
