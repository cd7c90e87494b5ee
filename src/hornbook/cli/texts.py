"""The texts that commands are given: the options of how to read them, and reading."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from hornbook.cli.console import note
from hornbook.config import DataConfig
from hornbook.errors import ConfigError
from hornbook.language import msg, tr

if TYPE_CHECKING:  # --help reads no text
    from hornbook.text.corpus import Corpus

LARGE_CHARACTERS = 50_000_000
# A character of the training text, on an idle core (docs/experiments.md).
SEARCH_SECONDS = 8e-8


@Parameter(name="*")
@dataclass(frozen=True)
class TextOptions:
    """How a text is read.

    Args:
        encoding: The text's encoding, if it is not UTF-8. auto finds it for each file;
            utf-8:replace puts U+FFFD in the place of bytes that are not UTF-8.
        field: Read one field of JSON Lines, CSV or Parquet: its texts, with U+001E between them.
        newlines: keep reads line ends as they are; lf makes CRLF and CR one LF.
        normalize: nfc composes characters (é is one), nfd decomposes them (e and an accent), none
            reads them as they are.
    """

    encoding: str | None = None
    field: str | None = None
    newlines: str | None = None
    normalize: str | None = None

    def given(self) -> dict[str, str]:
        """The options that were given, as settings."""
        return {name: value for name, value in asdict(self).items() if value is not None}


AS_IT_IS = TextOptions()


def read_texts(names: Sequence[str], data: DataConfig) -> "Corpus":
    """Texts as one, in their order, each read as the settings say; remarks go to stderr."""
    from hornbook.text.corpus import join
    from hornbook.text.dataset import formed, read_text
    from hornbook.text.forms import remarks
    from hornbook.text.store import is_store

    stores = [each for each in names if is_store(each)]
    if stores and len(names) > 1:
        raise ConfigError(
            msg(
                "{store} is a store, which has all of its texts: give it alone, or prepare one "
                "store of all (hornbook prepare)",
                store=stores[0],
            )
        )
    if stores or data.mix is not None:
        return read_text(replace(data, corpus=names[0]))
    texts = [read(each, data.encoding, data.field, data.conversations) for each in names]
    found = texts[0] if len(texts) == 1 else join(texts)
    for remark in remarks(found.chunks(), newlines=data.newlines, normalize=data.normalize):
        note(remark)
    return formed(found, data)


def read(
    corpus: str, encoding: str | None, field: str | None = None, conversations: bool = False
) -> "Corpus":
    """Read a text; prints its notes, and a progress bar while it is downloaded, on stderr."""
    from hornbook.text.corpus import read_corpus

    console = Console(stderr=True)
    bar = Progress(TextColumn(tr("downloading")), BarColumn(), DownloadColumn(), console=console)
    task = bar.add_task("", total=None)

    def show(done: int, total: int | None) -> None:
        # The first byte starts the bar: most texts are on disk already and need none.
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        found = read_corpus(
            corpus, encoding=encoding, field=field, conversations=conversations, on_progress=show
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    for message in found.notes:
        note(message)
    if found.characters > LARGE_CHARACTERS:
        note(
            msg(
                "{characters:,} characters: preparing their tokens takes a while the first "
                "time; if it is stopped, the next attempt continues from there; each time, "
                "copies of the validation text are searched, about {seconds:.0f} s",
                characters=found.characters,
                seconds=SEARCH_SECONDS * found.characters,
            )
        )
    return found
