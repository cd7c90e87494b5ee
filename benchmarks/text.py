"""How fast text becomes tokens and batches, and in how much memory.

    python benchmarks/text.py                  # all of it; makes and removes a text of 2 GB
    python benchmarks/text.py --gigabytes 0.2 --json

Each figure is the median of several runs in one process; the large text is prepared and trained
on in a process of its own, whose peak of resident memory the system tells. Run it on a machine that
does nothing else.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hornbook.corpora import known_corpora
from hornbook.data import batch
from hornbook.text import load_text
from hornbook.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

RUNS = 5
# A step of 4,096 tokens of the default model, on two cores (docs/experiments.md).
STEP_MILLISECONDS = 198


def median_seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """The median wall time of a piece of work."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def encoding_speed(megabytes: int = 32) -> dict[str, float]:
    """Characters and bytes to token arrays, in MB of UTF-8 a second, beside a plain copy."""
    here = {known.name for known in known_corpora() if known.location}
    figures = {}
    for name in sorted(here & {"shakespeare", "korean-novels"}) or ["python-docs"]:
        text = load_text(name)
        text *= 1 + megabytes * 10**6 // len(text.encode())
        size = len(text.encode()) / 1e6
        tokenizer = CharTokenizer.from_text(text)
        figures[f"{name}: alphabet"] = size / median_seconds(lambda: CharTokenizer.from_text(text))
        figures[f"{name}: characters"] = size / median_seconds(lambda: tokenizer.encode_array(text))
        figures[f"{name}: bytes"] = size / median_seconds(lambda: ByteTokenizer().encode_array(text))
        array = tokenizer.encode_array(text)
        figures[f"{name}: numpy's copy of the array"] = size / median_seconds(array.copy)
    return figures


def bpe_speed(megabytes: int = 4, vocab_size: int = 1024) -> dict[str, float]:
    """Learning and applying merges, in MB of UTF-8 a second, beside the library by itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    here = [known.name for known in known_corpora() if known.location]
    text = "".join(map(load_text, here))[: megabytes * 10**6]
    size = len(text.encode()) / 1e6
    lines = text.splitlines(keepends=True)

    def learn_with_library() -> Tokenizer:
        library = Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.train_from_iterator(
            lines,
            trainers.BpeTrainer(
                vocab_size=vocab_size,
                min_frequency=2,
                show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            ),
        )
        return library

    library, ours = learn_with_library(), BPETokenizer.train(text, vocab_size)
    return {
        "learning": size / median_seconds(lambda: BPETokenizer.train(text, vocab_size)),
        "learning, the library": size / median_seconds(learn_with_library),
        "encoding": size / median_seconds(lambda: ours.encode_array(text)),
        "encoding, the library, whole": size / median_seconds(lambda: library.encode(text).ids),
        "encoding, the library, line by line": size
        / median_seconds(lambda: [e.ids for e in library.encode_batch_fast(lines)]),
    }


def batch_time(megabytes: int = 1024) -> dict[str, float]:
    """Microseconds for a batch of 32 blocks of 128: from memory, and from a file not yet read."""
    figures = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "tokens.npy"
        np.save(path, np.random.default_rng(0).integers(65, size=megabytes << 20, dtype=np.uint8))
        for state in ("cold", "warm"):
            tokens = np.load(path, mmap_mode="r")
            with path.open("rb") as file:
                os.fsync(file.fileno())
                if state == "cold":
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    while file.read(1 << 24):
                        pass
            index = iter(range(10**9))
            seconds = median_seconds(
                lambda: batch(tokens, next(index), batch_size=32, block_size=128, seed=1), 200
            )
            figures[f"{state}, microseconds"] = seconds * 1e6
            figures[f"{state}, share of a step"] = seconds * 1e3 / STEP_MILLISECONDS
    return figures


CHILD = """
import json, resource, sys, time
started = time.perf_counter()
import torch
from itertools import islice
import hornbook as hb
from hornbook.data import prepare
from hornbook.text import read_corpus
def peak(): return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
imported, figures = time.perf_counter(), {"imported, MiB": peak()}
corpus = read_corpus(sys.argv[1])
read = time.perf_counter()
config = hb.preset("laptop").override(
    corpus=sys.argv[1], tokenizer=sys.argv[2], compile="off", steps=1000
)
dataset = prepare(corpus, config.data)
prepared = time.perf_counter()
figures |= {"read, s": read - imported, "prepare, s": prepared - read, "prepared, MiB": peak()}
figures["tokens"] = len(dataset.train) + len(dataset.validation)
for metrics in islice(hb.train(config, out="run"), 5): pass
figures |= {"begin and 5 steps, s": time.perf_counter() - prepared, "trained, MiB": peak()}
print(json.dumps(figures))
"""


def large_text(gigabytes: float = 2.0, kind: str = "char") -> dict[str, dict[str, float]]:
    """A generated text prepared and trained on for 5 steps, and the same once more, cached."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "large.txt"
        write_text(path, gigabytes)
        return {
            run: json.loads(
                subprocess.run(
                    [sys.executable, "-c", CHILD, str(path), kind],
                    cwd=tempfile.mkdtemp(dir=folder),
                    env=os.environ | {"HORNBOOK_CACHE_DIR": f"{folder}/cache"},
                    stdout=subprocess.PIPE,
                    check=True,
                ).stdout
            )
            for run in ("first", "again")
        }


def write_text(path: Path, gigabytes: float) -> None:
    """Lines in random order, of every corpus that is here: as many bytes as asked for."""
    here = [known.name for known in known_corpora() if known.location]
    lines = "\n".join(map(load_text, here)).encode().splitlines(keepends=True)
    draw = random.Random(0)
    with path.open("wb") as file:
        while file.tell() < gigabytes * 1e9:
            file.write(b"".join(draw.choices(lines, k=100_000)))


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the large text")
    parser.add_argument("--kind", default="char", help="its tokens: char, byte or bpe")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    figures = {
        "encoding, MB/s": encoding_speed(),
        "BPE, MB/s": bpe_speed(),
        "a batch": batch_time(),
    }
    figures |= {
        f"{given.gigabytes:g} GB, {run}": found
        for run, found in large_text(given.gigabytes, given.kind).items()
    }
    if given.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for heading, found in figures.items():
        sys.stdout.write(f"{heading}\n")
        for name, value in found.items():
            sys.stdout.write(f"  {name:<44}{value:>14,.4g}\n" if value < 1e4 else "")
            sys.stdout.write(f"  {name:<44}{value:>14,.0f}\n" if value >= 1e4 else "")


if __name__ == "__main__":
    main()
