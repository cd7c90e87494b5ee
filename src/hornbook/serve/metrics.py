"""Figures of the server in Prometheus' text format; they name models, never clients or keys."""

import time
from collections import Counter

from hornbook.serve.served import Models, ServedModel

PREFIX = "hornbook"
# What workers count.
COUNTED = {
    "generated_tokens": "Tokens drawn.",
    "prompt_tokens": "Tokens of prompts.",
    "steps": "Steps of the engine.",
}


class Metrics:
    """What the server has done since it began."""

    def __init__(self) -> None:
        self.started = time.time()
        self.responses: Counter[int] = Counter()

    def text(self, models: Models) -> str:
        """All figures."""
        lines = [
            *gauge("start_time_seconds", "When the server began.", {"": self.started}),
            *total(
                "responses_total",
                "Responses by status.",
                {f'status="{status}"': n for status, n in sorted(self.responses.items())},
            ),
        ]
        for name, what in COUNTED.items():
            lines += total(f"{name}_total", what, {label(m): m.counts[name] for m in models})
        accepted = {label(model): float(model.accepted) for model in models}
        lines += gauge("generations", "Generations that run or wait.", accepted)
        return "\n".join([*lines, ""])


def label(model: ServedModel) -> str:
    """A model's name as a label; a folder's name may hold any character."""
    escaped = model.name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'model="{escaped}"'


def gauge(name: str, what: str, values: dict[str, float], kind: str = "gauge") -> list[str]:
    """The lines of one figure, by its labels."""
    name = f"{PREFIX}_{name}"
    rows = [
        f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
        for labels, value in values.items()
    ]
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *rows]


def total(name: str, what: str, values: dict[str, int]) -> list[str]:
    """The lines of a figure that only grows."""
    return gauge(name, what, {labels: float(n) for labels, n in values.items()}, "counter")
