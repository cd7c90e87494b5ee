"""Preparing a large text as a store on all cores against one, and the memory of training from it.

The text is made here: documents of lines of python-docs, drawn with a seed, of `gigabytes` in all.
"""

import json
import os
import random
import tempfile
from pathlib import Path

from benchmarks.table import Finished, Row, process
from hornbook.cores import usable
from hornbook.text.corpus import load_text
from hornbook.text.tokenizer import BPETokenizer

GOAL_MIB = 1536
VOCABULARY = 8192
LEARNED_CHARACTERS = 2_000_000


def measure(*, short: bool = False, gigabytes: float = 1.0) -> list[Row]:
    """Megabytes of text a second on all cores and on one, and the peak memory of a training."""
    size = 1_500_000 if short else int(gigabytes * 1e9)
    cores = usable().count
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # One core prepares its share of the text: as long as all cores take for all of it.
        shares = {"one": size // cores, "all": size}
        for name, share in shares.items():
            write_text(folder / f"{name}.jsonl", share, seed=1)
        tokenizer = folder / "tokenizer.json"
        learned = load_text("python-docs")[: LEARNED_CHARACTERS // (40 if short else 1)]
        BPETokenizer.train(learned, 300 if short else VOCABULARY).save(tokenizer)
        seconds = {
            name: prepared(folder, name, tokenizer, workers, short=short).seconds
            for name, workers in (("one", 1), ("all", cores))
        }
        one, together = (shares[name] / 1e6 / seconds[name] for name in shares)
        steps = ["--steps", "2" if short else "100", "--no-page", "--quiet"]
        # The report card of the short form is most of its time.
        train = ["hornbook", "train", str(folder / ("one" if short else "all")), *steps]
        train += ["--model", "gpt"]
        small = ["--set", "n_layer=1", "--set", "n_embd=32", "--set", "compile=off"] * short
        peak = process([*train, *small, "--out", str(folder / "run")]).peak_mib
    name = f"{size / 1e9:g} GB of JSON Lines"
    return [
        Row(f"{name}: 1 process", "MB/s", one),
        Row(
            f"{name}: {cores} process{'es' * (cores > 1)}", "MB/s", together,
            peer=one, peer_name="1 process", ceiling=cores * one, ceiling_name="linear",
        ),
        Row(f"{name}: of linear scaling", "share", together / (cores * one), note="goal 0.8"),
        Row(
            f"training from {name}: peak memory", "MiB", peak,
            ceiling=GOAL_MIB, ceiling_name="goal",
        ),
    ]  # fmt: skip


def prepared(folder: Path, name: str, tokenizer: Path, workers: int, *, short: bool) -> Finished:
    """`hornbook prepare` of a text, each process on one core."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return process(
            [
                "hornbook", "prepare", str(folder / f"{name}.jsonl"), "--field", "text",
                "--out", str(folder / name), "--tokenizer", str(tokenizer), "--quiet",
                "--workers", str(workers), "--shard-mb", "1" if short else "16",
            ]
        )  # fmt: skip
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def write_text(path: Path, size: int, *, seed: int) -> None:
    """Documents of about 2 kB as JSON Lines, of `size` bytes in all."""
    drawn = random.Random(seed)
    lines = load_text("python-docs").splitlines(keepends=True)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            text = "".join(drawn.choices(lines, k=drawn.randint(20, 80)))
            written += file.write(json.dumps({"text": text}) + "\n")
