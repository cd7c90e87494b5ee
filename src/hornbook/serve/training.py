"""The loss of a run so far, as its page draws it."""

from typing import Any

from hornbook.runs.folder import RunFolder

# More points than a chart has pixels are of no use.
MOST_POINTS = 600


def progress(folder: RunFolder) -> dict[str, Any]:
    """Steps, seconds and losses of a run, thinned to MOST_POINTS; all validation losses are there.

    Raises: CheckpointError when the log cannot be read.
    """
    rows = list(folder.metrics_rows())
    every = max(1, len(rows) // MOST_POINTS)
    kept = [
        {name: row[name] for name in ("step", "seconds", "train_loss", "val_loss")}
        for number, row in enumerate(rows)
        if row["val_loss"] is not None or number % every == 0 or number == len(rows) - 1
    ]
    return {"rows": kept, "steps": folder.settings().train.steps}
