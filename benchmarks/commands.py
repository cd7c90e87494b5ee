"""What the README's table says: wall time, exact loss and memory of whole commands, cold.

    python -m benchmarks.commands              # one run each of the long ones, medians of the short
    python -m benchmarks.commands --runs 3

Each command is a process of its own, timed from outside; torch.compile's cache is emptied before
each training, so compiling is in the figure. Run it on a machine that does nothing else.
"""

import argparse
import json
import statistics
import sys

from benchmarks.table import process


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="how often to run each training")
    runs = parser.parse_args().runs
    sys.stdout.write("| command | wall | exact validation loss | peak memory |\n")
    sys.stdout.write("| --- | --- | --- | --- |\n")
    for command in (["hornbook", "train"], ["hornbook", "train", "shakespeare"]):
        done = [process([*command, "--json"], cold=True) for _ in range(runs)]
        found = json.loads(done[-1].stdout)
        sys.stdout.write(
            f"| `{' '.join(command)}` | {statistics.median(each.seconds for each in done):.0f} s "
            f"| {found['val_nats_per_char']:.3f} nats/char "
            f"| {max(each.peak_mib for each in done):.0f} MiB |\n"
        )
        sys.stdout.flush()
    done = [process(["hornbook", "--help"]) for _ in range(11)]
    seconds = statistics.median(each.seconds for each in done)
    sys.stdout.write(f"| `hornbook --help` | {seconds:.2f} s | | {done[0].peak_mib:.0f} MiB |\n")


if __name__ == "__main__":
    main()
