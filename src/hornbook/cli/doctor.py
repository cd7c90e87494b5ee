"""`hornbook doctor`."""

from dataclasses import asdict

from hornbook.cli.console import output
from hornbook.cli.terminal import print_json, table
from hornbook.language import by_english, msg, tr, translated

NAMES = by_english(
    msg("system"),
    msg("processor"),
    msg("cores"),
    msg("cpu capability"),
    msg("gpu"),
    msg("cache"),
    msg("device"),
    msg("precision"),
    msg("compile"),
    msg("threads"),
    msg("decoder"),
)


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
        found.add_row(called(name), tr("none") if fact == "none" else fact)
    console.print(found)
    console.print(f"\n{tr('hornbook train will use')}")
    training = table()
    for name, choice in (
        ("device", chosen.device),
        ("precision", chosen.precision),
        ("compile", chosen.compile),
    ):
        training.add_row(called(name), choice.value, translated(choice.why))
    why = may.why if chosen.threads == may.count else msg("PyTorch's default on this machine")
    training.add_row(called("threads"), str(chosen.threads), translated(why))
    console.print(training)
    console.print(f"\n{tr('hornbook sample will use')}")
    generation = table()
    generation.add_row(called("decoder"), decoder.value, translated(decoder.why))
    console.print(generation)


def called(fact: str) -> str:
    """The name of a fact of the JSON, as people read it."""
    name = fact.replace("_", " ")
    return translated(NAMES.get(name, name))
