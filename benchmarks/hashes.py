"""Hashes of what training and generation give, to show that a change moved no bit.

    python -m benchmarks.hashes --write before.json     # at the commit before
    python -m benchmarks.hashes --against before.json   # at the commit after, on the same machine

Every run is a real `hornbook` process: each model, each backend of a GPT in both precisions,
n-grams beside a network, gradient accumulation, dropout, and a run that was stopped and resumed.
The hashes depend on the processor, on torch and on the number of threads, so none are kept here.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

GPT = ["--preset", "quick", *["--set", "n_layer=2", "--set", "n_embd=64", "--set", "n_head=4"]]
SMALL = [
    "--set",
    "block_size=32",
    "--set",
    "batch_size=4",
    "--set",
    "eval_interval=3",
    "--set",
    "sample_tokens=30",
]
BACKENDS = {
    f"gpt {backend} {precision}": [*GPT, f"--set=compile={backend}", f"--set=precision={precision}"]
    for backend in ("off", "on", "c")
    for precision in ("float32", "bfloat16")
}
RUNS: dict[str, list[str]] = {
    "ngram": ["--model", "ngram"],
    **{
        name: ["--model", name]
        for name in ("bigram", "average", "head", "heads", "feedforward", "residual", "layernorm")
    },
    **BACKENDS,
    **{
        f"{name} with n-grams": [*arguments, "--with-counts"]
        for name, arguments in BACKENDS.items()
        if " on " not in name
    },
    "gpt c dropout": [*GPT, *["--set", "compile=c", "--set", "dropout=0.2"]],
    "gpt off dropout": [*GPT, *["--set", "compile=off", "--set", "dropout=0.2"]],
    "gpt c accumulation": [*GPT, *["--set", "compile=c", "--set", "gradient_accumulation=3"]],
    "gpt off tied, adamw": [
        *GPT, *["--set", "compile=off", "--set", "tie_embeddings=true", "--set", "optimizer=adamw"]
    ],
    "gpt c one thread": [*GPT, *["--set", "compile=c", "--set", "threads=1", "--with-counts"]],
    "gpt bytes": [*GPT, *["--set", "compile=c", "--tokenizer", "byte"]],
}  # fmt: skip
RESUMED = {"gpt c float32", "gpt c float32 with n-grams", "gpt off bfloat16", "layernorm"}
FIGURES = ("val_nats_per_char", "val_bits_per_byte", "baselines_nats_per_char", "parameters")


def text() -> str:
    """60,000 characters of words drawn by lot, the same ones every time."""
    draw = random.Random(7)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 7))) for _ in range(300)]
    lines = [" ".join(draw.choices(words, k=8)).capitalize() + "." for _ in range(2000)]
    return "\n".join(lines)[:60_000]


def hornbook(*arguments: str, folder: Path) -> str:
    """What a command prints.

    Raises: SystemExit with what it said, where it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hornbook", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"HORNBOOK_CACHE_DIR": str(folder / "cache")},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"hornbook {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def hashes_of(arguments: list[str], folder: Path, *, resumed: bool) -> dict[str, object]:
    """One run of six steps, or of three and then three more, and what is written from it."""
    run = ["text.txt", "--out", "run", "--json", *arguments, *SMALL]
    if resumed:
        hornbook("train", *run, "--steps", "3", folder=folder)
        found = json.loads(
            hornbook("train", "--resume", "run", "--steps", "6", "--json", folder=folder)
        )
    else:
        found = json.loads(hornbook("train", *run, "--steps", "6", folder=folder))
    verdict = json.loads(hornbook("verify", "run", "--json", folder=folder))
    last = next(each for each in verdict["checkpoints"] if each["kind"] == "step")
    samples = hornbook(
        *[
            "sample",
            "run",
            "--max-new-tokens",
            "60",
            "--num-samples",
            "3",
            "--temperature",
            "0.9",
            "--top-k",
            "20",
        ],
        folder=folder,
    )
    sample = (folder / "run" / "sample.txt").read_bytes()
    return {
        "weights": last["weights_sha256"],
        "optimizer": last["optimizer_sha256"],
        "sample": hashlib.sha256(sample).hexdigest(),
        "samples": hashlib.sha256(samples.encode()).hexdigest(),
        **{name: found[name] for name in FIGURES},
    }


def measure(only: str = "") -> dict[str, dict[str, object]]:
    """The hashes of every run whose name has `only` in it."""
    found: dict[str, dict[str, object]] = {}
    for name, arguments in RUNS.items():
        for resumed in (False, True) if name in RESUMED else (False,):
            key = f"{name}, resumed" if resumed else name
            if only not in key:
                continue
            with tempfile.TemporaryDirectory() as place:
                (Path(place) / "text.txt").write_text(text(), encoding="utf-8")
                found[key] = hashes_of(arguments, Path(place), resumed=resumed)
            print(key, str(found[key]["weights"])[:12], file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Write the hashes to a file, or compare them with one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", default="", help="runs whose name has this in it")
    asked = parser.parse_args()
    found = measure(asked.only)
    if asked.write:
        asked.write.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if asked.against:
        before = json.loads(asked.against.read_text(encoding="utf-8"))
        moved = [
            f"{name}: {figure}"
            for name, figures in found.items()
            for figure in figures
            if figures[figure] != before[name][figure]
        ]
        print("\n".join(moved) or f"all {len(found)} runs as before")
        sys.exit(bool(moved))


if __name__ == "__main__":
    main()
