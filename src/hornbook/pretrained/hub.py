"""A name on the Hugging Face Hub: its files, at a revision that is written down."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hornbook.errors import ConfigError, quoted
from hornbook.language import msg
from hornbook.pretrained.folder import open_folder
from hornbook.pretrained.gguf_source import INSTALL
from hornbook.pretrained.source import Source, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = re.compile(r"([\w][\w.-]{0,95}/[\w][\w.-]{0,95})(?:@([\w][\w./-]{0,95}))?")
# No pickles, no code.
FILES: Final[Sequence[str]] = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
)


def open_hub(name: str) -> Source:
    """The model of a name, `owner/model` or `owner/model@revision`; downloaded once.

    The commit is pinned and recorded. `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are
    huggingface_hub's own.
    Raises: SourceError where it is not there, not reachable or gated; ConfigError without
    huggingface_hub.
    """
    if not find_spec("huggingface_hub"):
        raise ConfigError(
            msg(
                "--from {name} needs the package huggingface_hub: {install}",
                name=name,
                install=INSTALL,
            )
        )
    matched = NAME.fullmatch(name)
    if matched is None:
        raise SourceError(
            msg("{name}: no name on the Hub, which is OWNER/MODEL", name=quoted(name))
        )
    repository, revision = matched.groups()
    folder = downloaded(name, repository, revision)
    found = open_folder(folder, hub=repository, revision=folder.name)
    pinned = f"{repository}@{folder.name}"
    return found.renamed(name=pinned, settings={**found.settings, "pretrained": pinned})


def downloaded(name: str, repository: str, revision: str | None) -> Path:
    """The folder of a repository's files in huggingface_hub's cache. Raises: SourceError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError:
        why = msg("its owner lets in only who was admitted: ask on its page, then set HF_TOKEN")
    except RepositoryNotFoundError:
        why = msg("no such model on the Hub, or a private one: HF_TOKEN lets you in")
    except RevisionNotFoundError:
        why = msg("no revision {revision}", revision=revision)
    except LocalEntryNotFoundError:
        why = msg(
            "the Hub cannot be reached, and the model was not downloaded before; with its files in "
            "a folder, give the folder"
        )
    except Exception as error:  # noqa: BLE001 - of httpx and of the Hub, in one line
        why = msg("cannot be downloaded: {error}", error=" ".join(str(error).split())[:200])
    raise SourceError(msg("{name}: {why}", name=name, why=why))
