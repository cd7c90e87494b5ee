"""`hornbook corpora`."""

import json as json_format
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from hornbook.text.corpora import known_corpora


def run(*, json: bool = False) -> None:
    """List the texts known by name, and which are here.

    Parameters
    ----------
    json
        Print one JSON array instead.
    """
    known = known_corpora()
    if json:
        sys.stdout.write(json_format.dumps([asdict(corpus) for corpus in known], indent=1) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "characters", "where", "what"):
        table.add_column(heading, justify="right" if heading == "characters" else "left")
    for corpus in known:
        where = corpus.location or ("downloaded when asked for" if corpus.url else "not here")
        table.add_row(corpus.name, f"{corpus.characters:,}", where, corpus.description)
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
