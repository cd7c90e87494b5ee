"""By which name and settings a run finds its text again, from any directory."""

from pathlib import Path

from hornbook.config import DataConfig
from hornbook.errors import redacted
from hornbook.runs.folder import RunFolder
from hornbook.storage.disk import DISK, Disk, write_atomically
from hornbook.text.corpora import CATALOGUE
from hornbook.text.corpus import Corpus, path_reference
from hornbook.text.store import StoreCorpus


def lasting_settings(
    data: DataConfig, corpus: Corpus, folder: RunFolder, disk: Disk = DISK
) -> dict[str, str | None]:
    """The settings by which a run, or a ladder's folder, reads its text again later.

    Several texts are kept joined, in UTF-8. A store has its own tokenizer.
    """
    own = {"tokenizer": corpus.opened.tokenizer.kind} if isinstance(corpus, StoreCorpus) else {}
    several = data.corpus == "-" and len(corpus.parts) > 1
    return {
        "corpus": lasting_reference(data.corpus, corpus, folder, disk),
        "encoding": None if several else data.encoding,
        "field": data.field,
        "newlines": data.newlines,
        "normalize": data.normalize,
        **own,
    }


def lasting_reference(asked: str, corpus: Corpus, folder: RunFolder, disk: Disk = DISK) -> str:
    """A name that finds the text again later, from any directory.

    Standard input cannot be read twice, and an address with a password or a token in it must not be
    written down: for these the run keeps a copy, to be read with the same settings.
    """
    if asked == "-" or redacted(asked) != asked:
        # In chunks: what comes through a pipe may be larger than memory.
        write_atomically(folder.text, corpus.kept(), disk)
        return str(folder.text.resolve())
    by_name = any(asked in (known.name, *known.aliases) for known in CATALOGUE)
    path = Path(asked).expanduser()
    return asked if by_name or not path.exists() else path_reference(path.resolve())
