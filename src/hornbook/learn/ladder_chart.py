"""The picture of a ladder: each rung's validation loss on the way."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from hornbook.storage.disk import write_atomically

if TYPE_CHECKING:
    from hornbook.learn.ladder_figures import Ladder


def draw(ladder: Ladder) -> None:
    """The rungs' validation curves as ladder.png and ladder.svg, light to dark going up."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    by_time = ladder.budget.startswith("equal time")
    colors = mpl.colormaps["viridis_r"](np.linspace(0.12, 1, len(ladder.rungs)))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for rung, color in zip(ladder.rungs, colors, strict=True):
        x = rung.curve.seconds if by_time else rung.curve.steps
        label = f"{rung.loss:.3f}  {rung.name}"
        axes.plot(x, rung.curve.loss, color=color, marker="o", markersize=3, label=label)
    axes.axhline(
        ladder.counted["bigram"],
        color="tab:gray",
        linestyle=":",
        linewidth=1,
        label=f"{ladder.counted['bigram']:.3f}  bigram counts",
    )
    axes.set_xlabel("seconds of training" if by_time else "step")
    axes.set_ylabel("validation loss (nats per character)")
    axes.set_title(f"The ladder on {ladder.corpus}: {ladder.budget}")
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    for kind in ("svg", "png"):
        picture = BytesIO()
        metadata: dict[str, None] = {"Date": None} if kind == "svg" else {}
        with mpl.rc_context({"svg.hashsalt": "hornbook"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a glyph that the font lacks is drawn as a box
            figure.savefig(picture, format=kind, dpi=120, metadata=metadata)
        write_atomically(ladder.folder / f"ladder.{kind}", picture.getvalue())
