"""Whether a run can chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hornbook.runs.folder import RunFolder


def chat_template(folder: RunFolder) -> str | None:
    """The chat template of a run; None for one that continues texts.

    Raises: CheckpointError when the run's facts cannot be read.
    """
    found = folder.environment_facts().get("chat_template")
    return found if isinstance(found, str) else None
