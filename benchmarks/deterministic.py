"""What `deterministic` costs on this machine, and whether it changes a bit.

    python -m benchmarks.deterministic
    python -m benchmarks.deterministic --steps 200 -- --set compile=on

The same training with and without torch's deterministic algorithms, in turn, each in a process of
its own; what stands after the -- is handed to `hornbook train`. Run it on a machine that does
nothing else.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.table import process

CORPUS = "shakespeare"


def step_rates(run: Path, wanted: str, steps: int, settings: list[str]) -> list[float]:
    """Tokens a second of each step of a training but the first ten, which are a warming up."""
    fixed = [f"--set=deterministic={wanted}", f"--set=eval_interval={steps}", "--quiet"]
    command = ["hornbook", "train", CORPUS, "--out", str(run), "--steps", str(steps)]
    process([*command, *fixed, *settings])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["tokens_per_second"] for row in rows[10:]]


def weights_hash(run: Path) -> str:
    """The SHA-256 of the last weights."""
    last = max((run / "checkpoints").glob("step-*"))
    return hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Print one line: both medians, what the setting costs, and whether bits are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="trainings with it, and without")
    parser.add_argument("--steps", type=int, default=60, help="steps of each")
    parser.add_argument("settings", nargs="*", help="for hornbook train")
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {"true": [], "false": []}
    hashes: dict[str, set[str]] = {"true": set(), "false": set()}
    with tempfile.TemporaryDirectory() as place:
        for number in range(asked.runs):
            for wanted in rates:
                run = Path(place) / f"{wanted}-{number}"
                rates[wanted] += step_rates(run, wanted, asked.steps, asked.settings)
                hashes[wanted].add(weights_hash(run))
    on, off = (statistics.median(rates[wanted]) for wanted in ("true", "false"))
    same = "the same bits" if hashes["true"] == hashes["false"] else "other bits"
    sys.stdout.write(
        f"deterministic: {on:,.0f} tokens/s, without: {off:,.0f}: it costs {off / on - 1:+.1%}; "
        f"{len(hashes['true'])} and {len(hashes['false'])} different weights in {asked.runs} runs "
        f"each; {same} with and without\n"
    )


if __name__ == "__main__":
    main()
