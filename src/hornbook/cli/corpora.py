"""`hornbook corpora`."""

from dataclasses import asdict

from hornbook.cli.console import output
from hornbook.cli.terminal import print_json, table
from hornbook.language import tr, translated
from hornbook.text.corpora import known_corpora


def run(*, json: bool = False) -> None:
    """List the named texts, and which of them are on this machine.

    Args:
        json: Print one JSON array.
    """
    known = known_corpora()
    if json:
        print_json([asdict(corpus) for corpus in known], indent=1)
        return
    characters = tr("characters")
    listed = table((tr("name"), characters, tr("where"), tr("what")), numbers=(characters,))
    for corpus in known:
        where = corpus.location
        if not where:
            where = tr("downloaded on first use") if corpus.url else tr("not here")
        what = translated(corpus.description)
        listed.add_row(corpus.name, f"{corpus.characters:,}", where, what)
    output().print(listed)
