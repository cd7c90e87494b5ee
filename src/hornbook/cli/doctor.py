"""`hornbook doctor`."""

from dataclasses import asdict

from hornbook.cli.console import output
from hornbook.cli.terminal import print_json, table


def run(*, json: bool = False) -> None:
    """Print what this machine offers and what training will use, and why.

    Args:
        json: Print one JSON object instead.
    """
    from hornbook import cores
    from hornbook.config import Config
    from hornbook.plan import machine
    from hornbook.storage.cache import cache_folder

    may = cores.usable()
    chosen = machine.choose(Config())
    decoder = machine.choose_decoder()
    facts = machine.describe() | {"cache": str(cache_folder())}
    if json:
        chosen_facts = asdict(chosen) | {"writing": asdict(decoder)}
        print_json({"machine": facts, "usable_cores": asdict(may), "chosen": chosen_facts})
        return
    console = output()
    found = table()
    for name, fact in facts.items():
        found.add_row(name.replace("_", " "), fact)
    console.print(found)
    console.print("\nhornbook train will use")
    training = table()
    training.add_row("device", chosen.device.value, chosen.device.why)
    training.add_row("precision", chosen.precision.value, chosen.precision.why)
    training.add_row("compile", chosen.compile.value, chosen.compile.why)
    why = may.why if chosen.threads == may.count else "PyTorch's default on this machine"
    training.add_row("threads", str(chosen.threads), why)
    console.print(training)
    console.print("\nhornbook sample will use")
    generation = table()
    generation.add_row("decoder", decoder.value, decoder.why)
    console.print(generation)
