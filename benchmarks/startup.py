"""How long hornbook takes to start, compared with Python and an import of torch."""

import statistics

from benchmarks.table import Row, process


def measure(*, short: bool = False) -> list[Row]:
    """The median time of whole processes."""
    runs = 1 if short else 7

    def seconds(command: list[str]) -> float:
        return statistics.median(process(command).seconds for _ in range(runs))

    python = seconds(["python", "-c", "pass"])
    torch = seconds(["python", "-c", "import torch"])
    commands = {
        "hornbook --help": ["hornbook", "--help"],
        "import hornbook": ["python", "-c", "import hornbook"],
        "hornbook corpora": ["hornbook", "corpora"],
    }
    return [
        Row(what, "s", seconds(command), torch, "importing torch", python, "python alone")
        for what, command in commands.items()
    ]
