"""What the README's table says: wall time, exact loss and memory of whole commands, cold.

    python -m benchmarks.commands              # one run each, 36 minutes in all
    python -m benchmarks.commands --most 2     # only what is given two minutes at most
    python -m benchmarks.commands --runs 3

Each command is a process of its own, timed from outside; torch.compile's cache is emptied before
each training, so compiling is in the figure. Run it on a machine that does nothing else.
"""

import argparse
import json
import statistics
import sys

from benchmarks.table import process

USUAL_MINUTES = 2.0
# Corpus and minutes of both together, and of the network alone.
BOTH = (("", None), *(("shakespeare", minutes) for minutes in (None, 0.17, 0.5, 1, 5)))
ALONE = (2, 2.9, 5, 15)


def commands() -> list[tuple[list[str], float]]:
    """Every training of the table, and how many minutes it is given."""
    listed = [
        (
            ["hornbook", "train", *filter(None, [corpus])]
            + ([] if minutes is None else ["--minutes", f"{minutes:g}"]),
            minutes or USUAL_MINUTES,
        )
        for corpus, minutes in BOTH
    ]
    alone = ["hornbook", "train", "shakespeare", "--model", "gpt", "--minutes"]
    return [*listed, *(([*alone, f"{minutes:g}"], minutes) for minutes in ALONE)]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="how often to run each training")
    parser.add_argument("--most", type=float, default=15, help="leave out what takes more minutes")
    asked = parser.parse_args()
    sys.stdout.write(
        "| command | wall | exact validation loss | counting alone, best n-gram | peak memory |\n"
        "| --- | --- | --- | --- | --- |\n"
    )
    for command in [command for command, minutes in commands() if minutes <= asked.most]:
        done = [process([*command, "--json"], cold=True) for _ in range(asked.runs)]
        found = [json.loads(each.stdout) for each in done]
        loss = statistics.median(each["val_nats_per_char"] for each in found)
        sys.stdout.write(
            f"| `{' '.join(command)}` | {statistics.median(each.seconds for each in done):.3g} s "
            f"| {loss:.3f} nats/char, {found[0]['kind']} "
            f"| {found[0]['baselines_nats_per_char']['ngram']:.3f} "
            f"| {max(each.peak_mib for each in done):,.0f} MiB |\n"
        )
        sys.stdout.flush()
    done = [process(["hornbook", "--help"]) for _ in range(11)]
    seconds = statistics.median(each.seconds for each in done)
    sys.stdout.write(f"| `hornbook --help` | {seconds:.2f} s | | | {done[0].peak_mib:.0f} MiB |\n")


if __name__ == "__main__":
    main()
