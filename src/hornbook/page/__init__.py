"""The page of a run: its model in one HTML file that runs it, and shows what it computes.

A server needs the page's own files without torch, which only choosing what a page holds imports.
"""

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from hornbook.language import current
from hornbook.page.document import document
from hornbook.page.kept import DEFAULT_BYTES, Kept
from hornbook.page.packing import Precision
from hornbook.runs.load import TrainedModel, load
from hornbook.storage.disk import DISK, Disk, write_atomically
from hornbook.text.dataset import Dataset

__all__ = ["DEFAULT_BYTES", "Kept", "Written", "frame", "write"]


@dataclass(frozen=True)
class Written:
    """A page on the disk: its path, its size in bytes, and what it holds."""

    path: Path
    bytes: int
    kept: Kept


def write(
    trained: TrainedModel,
    path: Path | None = None,
    *,
    size: int = DEFAULT_BYTES,
    weights: Precision | Literal["auto"] = "auto",
    network_only: bool = False,
    dataset: Dataset | None = None,
    disk: Disk = DISK,
) -> Written:
    """Write a run's page, into its folder unless a path is given; an old page is replaced whole.

    `size` is about how many bytes it may have, and `dataset` the run's text, where it is known.
    Raises: ConfigError for a model that does not fit; CheckpointError when the disk refuses.
    """
    from hornbook.page.contents import gather

    about, numbers, kept = gather(
        trained, size=size, weights=weights, network_only=network_only, dataset=dataset
    )
    page = document(about, numbers).encode("utf-8", "replace")
    path = trained.folder.page if path is None else path
    write_atomically(path, page, disk)
    return Written(path, len(page), kept)


def frame(run: TrainedModel | str | os.PathLike[str], text: str = "", *, height: int = 720) -> str:
    """A run's page as an HTML frame for a notebook, which begins with a text.

    It speaks Korean where the environment does, else the browser's language; a page around it
    changes that by the message {language: "ko"}. Its scripts cannot reach the notebook around it.
    Raises: CheckpointError, ConfigError.
    """
    from hornbook.page.contents import gather

    trained = run if isinstance(run, TrainedModel) else load(run)
    about, numbers, _ = gather(trained)
    language = {"language": "ko"} if current() == "ko" else {}
    page = document(about | {"prompt": text} | language, numbers)
    return (
        f'<iframe sandbox="allow-scripts" title="{escape(about["name"])}" '
        f'style="width:100%;height:{height}px;border:0" srcdoc="{escape(page)}"></iframe>'
    )
