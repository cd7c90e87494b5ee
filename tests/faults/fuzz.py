"""Coverage-guided fuzzing of every loader: the long form of test_malicious.py.

Where parsing is done in C or Rust there is no coverage to guide by, and a sound file would be lost
among the shortest broken ones: so half of all inputs are sound files, changed.

    pip install atheris
    python tests/faults/fuzz.py tokenizer --minutes 10
    for loader in tokenizer config metrics manifest state weights tokens text conversations \
        folder stored gguf; do
        python tests/faults/fuzz.py $loader --minutes 10; done

A find is whatever is not a HornbookError: atheris prints it and leaves the input in a crash-* file
of the folder it was started in. The same events that the sandbox forbids end the run as a find.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np
from sandbox import Watch

with atheris.instrument_imports(include=["hornbook", "json", "tomllib", "safetensors"]):
    from hornbook.config import load_config
    from hornbook.errors import HornbookError
    from hornbook.pretrained.folder import open_folder
    from hornbook.pretrained.gguf_source import open_gguf
    from hornbook.runs.folder import RunFolder
    from hornbook.storage import cache, checkpoint
    from hornbook.text import arrays
    from hornbook.text.corpus import read_corpus
    from hornbook.text.tokenizer import ByteTokenizer, load_tokenizer

SEEDS = Path(__file__).parent.parent / "fixtures" / "run-format-1"


def sealed(folder: Path, files: dict[str, bytes]) -> None:
    """Write files and a manifest that says they are right."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def tokenizer(home: Path, data: bytes) -> None:
    (home / "tokenizer.json").write_bytes(data)
    load_tokenizer(home / "tokenizer.json")


def config(home: Path, data: bytes) -> None:
    (home / "config.toml").write_bytes(data)
    load_config(home / "config.toml")


def metrics(home: Path, data: bytes) -> None:
    (home / "metrics.jsonl").write_bytes(data)
    list(RunFolder(home).metrics_rows())


def manifest(home: Path, data: bytes) -> None:
    (home / "step-00000004").mkdir(exist_ok=True)
    (home / "step-00000004" / "manifest.json").write_bytes(data)
    checkpoint.read(home / "step-00000004")


def state(home: Path, data: bytes) -> None:
    (home / "step-00000004").mkdir(exist_ok=True)
    sealed(home / "step-00000004", {"state.json": data})
    checkpoint.read(home / "step-00000004")


def weights(home: Path, data: bytes) -> None:
    (home / "step-00000004").mkdir(exist_ok=True)
    known = b'{"format": 2, "kind": "step", "step": 4}'
    sealed(home / "step-00000004", {"state.json": known, "model.safetensors": data})
    checkpoint.read(home / "step-00000004")


def tokens(home: Path, data: bytes) -> None:
    sealed(home, {"train.npy": data})
    assert cache.is_sound(home)
    arrays.open_arrays(home, ["train"], ByteTokenizer.vocab_size)


def text(home: Path, data: bytes) -> None:
    (home / "text.txt").write_bytes(data)
    read_corpus(home / "text.txt")


def conversations(home: Path, data: bytes) -> None:
    (home / "chats.jsonl").write_bytes(data)
    read_corpus(home / "chats.jsonl", conversations=True)


def folder(home: Path, data: bytes) -> None:
    shutil.copytree(MODEL, home, dirs_exist_ok=True)
    (home / "config.json").write_bytes(data)
    open_folder(home)


def stored(home: Path, data: bytes) -> None:
    shutil.copytree(MODEL, home, dirs_exist_ok=True)
    (home / "model.safetensors").write_bytes(data)
    for _, tensor in open_folder(home).tensors():
        assert tensor.numel()


def gguf(home: Path, data: bytes) -> None:
    (home / "model.gguf").write_bytes(data)
    for _, tensor in open_gguf(home / "model.gguf").tensors():
        assert tensor.numel()


# A small Llama of random weights, as transformers writes it; made when one of its loaders is asked
# for.
MODEL = Path(tempfile.gettempdir()) / f"hornbook-fuzz-model-{os.getpid()}"


def small_model() -> None:
    """Make MODEL, and a GGUF file of it."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "pretrained"))
    import foreign
    import test_gguf

    foreign.save(foreign.make("llama"), MODEL)
    test_gguf.write(MODEL, MODEL / "model.gguf")


OF_MODELS = ("folder", "stored", "gguf")
CHATS = b"""{"prompt": "to be?", "response": "or not"}
{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
"""
LOADERS: dict[str, tuple[Callable[[Path, bytes], None], str]] = {
    "tokenizer": (tokenizer, "tokenizer.json"),
    "config": (config, "config.toml"),
    "metrics": (metrics, "metrics.jsonl"),
    "manifest": (manifest, "checkpoints/step-*/manifest.json"),
    "state": (state, "checkpoints/step-*/state.json"),
    "weights": (weights, "checkpoints/step-*/model.safetensors"),
    "tokens": (tokens, "*.npy"),
    "text": (text, "config.toml"),
    "conversations": (conversations, "metrics.jsonl"),
    "folder": (folder, "config.json"),
    "stored": (stored, "model.safetensors"),
    "gguf": (gguf, "model.gguf"),
}


def an_array() -> bytes:
    """A sound file of tokens, as numpy writes it."""
    file = io.BytesIO()
    np.save(file, np.arange(100, dtype=np.uint8))
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("--minutes", type=float, default=10)
    asked = parser.parse_args()
    load, seeds = LOADERS[asked.loader]
    home = Path(tempfile.mkdtemp(prefix="hornbook-fuzz-")).resolve()
    corpus = Path(tempfile.mkdtemp(prefix="hornbook-seeds-"))
    if asked.loader in OF_MODELS:
        small_model()
    where = MODEL if asked.loader in OF_MODELS else SEEDS
    sound = [path.read_bytes() for path in where.glob(seeds)] or [an_array()]
    if asked.loader == "conversations":
        sound = [CHATS]
    for number, data in enumerate(sound):
        (corpus / str(number)).write_bytes(data)
        # The first call imports, and resolves annotations: code of ours.
        with suppress(HornbookError):
            load(home, data)
    watch = Watch(home)
    sys.addaudithook(watch)

    def once(data: bytes) -> None:
        watch.armed = True
        try:
            load(home, data)
        except HornbookError as error:
            if "\n" in str(error):
                raise AssertionError("a message of several lines") from error
        finally:
            watch.armed = False
        assert not watch.seen, watch.seen

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        chosen = random.Random(seed)
        begun = chosen.choice(sound) if chosen.random() < 0.5 else data
        for _ in range(chosen.choice((1, 1, 2, 4))):
            begun = atheris.Mutate(begun[:most], most)
        return begun

    options = [f"-max_total_time={int(60 * asked.minutes)}", "-rss_limit_mb=2048", "-timeout=20"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once, custom_mutator=mutated)
    os.environ["OMP_NUM_THREADS"] = "1"
    atheris.Fuzz()


if __name__ == "__main__":
    main()
