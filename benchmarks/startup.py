"""How long until something happens, against what Python and torch alone take."""

import statistics

from benchmarks.table import Row, process


def measure(*, short: bool = False) -> list[Row]:
    """Whole processes, from their start to their end; medians."""
    runs = 1 if short else 7

    def seconds(command: list[str]) -> float:
        return statistics.median(process(command).seconds for _ in range(runs))

    python = seconds(["python", "-c", "pass"])
    torch = seconds(["python", "-c", "import torch"])
    return [
        Row(
            "hornbook --help",
            "s",
            seconds(["hornbook", "--help"]),
            torch,
            "importing torch",
            python,
            "python alone",
        ),
        Row(
            "import hornbook",
            "s",
            seconds(["python", "-c", "import hornbook"]),
            torch,
            "importing torch",
            python,
            "python alone",
        ),
        Row(
            "hornbook corpora",
            "s",
            seconds(["hornbook", "corpora"]),
            torch,
            "importing torch",
            python,
            "python alone",
        ),
    ]
