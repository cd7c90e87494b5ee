"""`hornbook doctor`."""

import json as json_format
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table


def run(*, json: bool = False) -> None:
    """Print what this machine offers and what training will use, and why.

    Parameters
    ----------
    json
        Print one JSON object instead.
    """
    from hornbook.config import Config
    from hornbook.plan import machine
    from hornbook.storage.cache import cache_folder

    chosen = machine.choose(Config())
    decoder = machine.choose_decoder()
    facts = machine.describe() | {"cache": str(cache_folder())}
    if json:
        chosen_facts = asdict(chosen) | {"writing": asdict(decoder)}
        sys.stdout.write(json_format.dumps({"machine": facts, "chosen": chosen_facts}) + "\n")
        return
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, fact in facts.items():
        table.add_row(name.replace("_", " "), fact)
    console.print(table)
    console.print("\nhornbook train will use")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("device", chosen.device.value, chosen.device.why)
    table.add_row("precision", chosen.precision.value, chosen.precision.why)
    table.add_row("compile", chosen.compile.value, chosen.compile.why)
    table.add_row("threads", str(chosen.threads), "PyTorch's default on this machine")
    console.print(table)
    console.print("\nhornbook sample will use")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("decoder", decoder.value, decoder.why)
    console.print(table)
