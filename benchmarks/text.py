"""How fast text becomes tokens and batches, and how much memory training on a large text takes.

The large text is generated, and prepared and trained on for five steps in a separate process, whose
peak resident memory is measured. It is removed afterwards.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import Row, median_seconds
from hornbook.text.arrays import Tokens
from hornbook.text.batches import batch, get_batch
from hornbook.text.corpora import known_corpora
from hornbook.text.corpus import load_text
from hornbook.text.tokenizer import BPETokenizer, CharTokenizer


def measure(*, short: bool = False) -> list[Row]:
    """The large text, encoding, merges and batches."""
    runs = 1 if short else 5
    return [
        # First, because a process inherits the peak memory of its parent.
        *large_text(0.08 if short else 2.0),
        *(encoding(name, 1 if short else 32, runs) for name in here()),
        *merges(50_000 if short else 4_000_000, runs),
        *batches(16 if short else 1024, 20 if short else 200),
    ]


def here() -> list[str]:
    """The names of the texts on this machine."""
    return [known.name for known in known_corpora() if known.location]


def encoding(name: str, megabytes: int, runs: int) -> Row:
    """Encoding characters, compared with the lecture's list and a copy of the array."""
    once = load_text(name)
    text = once * (1 + megabytes * 10**6 // len(once.encode()))
    size, size_once = len(text.encode()) / 1e6, len(once.encode()) / 1e6
    tokenizer = CharTokenizer.from_text(text)
    array, stoi = tokenizer.encode_array(text), tokenizer.stoi
    return Row(
        f"characters of {name}",
        "MB/s",
        size / median_seconds(lambda: tokenizer.encode_array(text), runs),
        size_once / median_seconds(lambda: [stoi[c] for c in once], runs),
        "the lecture's list",
        size / median_seconds(array.copy, runs),
        "numpy's copy",
    )


def merges(characters: int, runs: int) -> Iterator[Row]:
    """Training and applying a BPE of 1,024 tokens, compared with the tokenizers library."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text = "".join(map(load_text, here()))[:characters]
    size, lines = len(text.encode()) / 1e6, text.splitlines(keepends=True)

    def learned_by_library() -> Tokenizer:
        library = Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=1024,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        library.train_from_iterator(lines, trainer)
        return library

    library, ours = learned_by_library(), BPETokenizer.train(text, 1024)
    yield Row(
        "learning byte-pair merges",
        "MB/s",
        size / median_seconds(lambda: BPETokenizer.train(text, 1024), runs),
        size / median_seconds(learned_by_library, runs),
        "tokenizers",
    )
    yield Row(
        "encoding with them",
        "MB/s",
        size / median_seconds(lambda: ours.encode_array(text), runs),
        size / median_seconds(lambda: [e.ids for e in library.encode_batch_fast(lines)], runs),
        "tokenizers, line by line",
    )


def batches(megabytes: int, runs: int) -> Iterator[Row]:
    """A batch of 32 blocks of 128 tokens from a file, not in memory (cold) and in memory (warm)."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "tokens.npy"
        ids = np.random.default_rng(0).integers(65, size=megabytes << 20, dtype=np.uint8)
        np.save(path, ids)
        lecture = torch.from_numpy(ids[: 1 << 20].astype(np.int64))
        peer = median_seconds(lambda: get_batch(lecture, 32, 128), runs)
        for state in ("cold", "warm"):
            tokens = np.load(path, mmap_mode="r")
            with path.open("rb") as file:
                os.fsync(file.fileno())
                if state == "cold" and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while state == "warm" and file.read(1 << 24):
                    pass
            ours = median_seconds(each_batch(tokens), runs)
            what = f"a batch of 4,096 tokens, {state}"
            yield Row(what, "ms", ours * 1e3, peer * 1e3, "the lecture's, in memory")


def each_batch(tokens: Tokens) -> Callable[[], object]:
    """A function that makes the next batch at each call."""
    numbers = count()
    return lambda: batch(tokens, next(numbers), batch_size=32, block_size=128, seed=1)


CHILD = """
import json, resource, sys, time
import torch
from itertools import islice
import hornbook as hb
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
imported = peak()
config = hb.preset("laptop").override(corpus=sys.argv[1], compile="off", steps=1000)
started = time.perf_counter()
corpus = read_corpus(sys.argv[1])
read = time.perf_counter()
dataset = prepare(corpus, config.data)
prepared = time.perf_counter()
for metrics in islice(hb.train(config, out="run"), 5): pass
figures = {"read": read - started, "prepare": prepared - read, "imported_mib": imported}
figures["tokens"] = len(dataset.train) + len(dataset.validation)
print(json.dumps(figures | {"trained_mib": peak()}))
"""


def large_text(gigabytes: float) -> Iterator[Row]:
    """Prepare a generated text and train on it, twice: the second time with a warm cache."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "large.txt"
        write_text(path, gigabytes)
        megabytes = path.stat().st_size / 1e6
        with path.open("rb") as file:
            hashing = median_seconds(lambda: file.seek(0) or hashlib.file_digest(file, "sha256"), 1)
        for run in ("first", "again"):
            found = json.loads(
                subprocess.run(
                    [sys.executable, "-c", CHILD, str(path)],
                    cwd=tempfile.mkdtemp(dir=folder),
                    env=os.environ | {"HORNBOOK_CACHE_DIR": f"{folder}/cache"},
                    stdout=subprocess.PIPE,
                    check=True,
                ).stdout
            )
            what = f"{gigabytes:g} GB, {run}:"
            speed = megabytes / (found["read"] + found["prepare"])
            yield Row(
                f"{what} read and prepared",
                "MB/s",
                speed,
                ceiling=megabytes / hashing,
                ceiling_name="its hash",
                note=f"{found['tokens']:,} tokens",
            )
            yield Row(
                f"{what} memory, five steps trained",
                "MiB",
                found["trained_mib"],
                ceiling=found["imported_mib"],
                ceiling_name="torch imported",
            )


def write_text(path: Path, gigabytes: float) -> None:
    """Write lines of all local corpora in random order, up to a size in gigabytes."""
    lines = "\n".join(map(load_text, here())).encode().splitlines(keepends=True)
    draw = random.Random(0)
    with path.open("wb") as file:
        while file.tell() < gigabytes * 1e9:
            file.write(b"".join(draw.choices(lines, k=100_000)))
