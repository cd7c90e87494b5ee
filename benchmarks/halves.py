"""Whether the joined model is ever worse than the better of its halves: names, code, five scripts.

The halves are the network with n-grams, the mixer, the network alone and n-grams alone, each
frozen, on the same validation text. Nothing is downloaded: names and code are the standard
library's, and prose is what this repository, Python and Sphinx say to their readers.
"""

import io
import json
import keyword
import random
import sysconfig
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import hornbook as hb
from benchmarks.minutes import verse
from benchmarks.table import ROOT, Row, process
from hornbook.eval.loss import per_char
from hornbook.language.catalogue import read_catalogue
from hornbook.models.mixer import Mixer
from hornbook.models.mixing import Mixing
from hornbook.text.arrays import Tokens
from hornbook.text.tokenizer import Tokenizer

MOST_CHARACTERS = 1_000_000
LENGTH = ("--minutes", "0.5")
# By how much a joined model may be worse, in nats a character.
WORSE = 0.01
# Sphinx's translations by their script.
SCRIPTS = {"Cyrillic": "ru", "Devanagari": "hi", "Greek": "el", "Japanese": "ja"}


def measure(*, short: bool = False) -> list[Row]:
    """The joined model of each text beside the best of its halves."""
    if short:
        length = ("--steps", "2", "--set", "n_layer=1", "--set", "block_size=32")
        code = "".join(path.read_text() for path in sorted((ROOT / "benchmarks").glob("*.py")))
        small = {"verse": verse(), "names": names_in(code)}
        return [of_text(name, text, length) for name, text in small.items()]
    return [of_text(name, text, LENGTH) for name, text in texts()]


def texts() -> Iterator[tuple[str, str]]:
    """All texts by name."""
    import sphinx

    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = "".join(path.read_text(encoding="utf-8") for path in sources)
    yield "names", names_in(code)
    yield "code", code[:MOST_CHARACTERS]
    yield "prose, Latin", hb.load_text("python-docs")
    yield "prose, Hangul", said(sorted((ROOT / "docs/locale/ko/LC_MESSAGES").rglob("*.po")))
    for script, name in SCRIPTS.items():
        folder = Path(sphinx.__file__).parent / "locale" / name
        yield f"prose, {script}", said([folder / "LC_MESSAGES" / "sphinx.po"])


def names_in(code: str) -> str:
    """The distinct identifiers of Python code, a line each, in no order."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    found = {each.string for each in tokens if each.type == tokenize.NAME}
    names = sorted(name for name in found if not keyword.iskeyword(name))
    random.Random(0).shuffle(names)
    return "\n".join(names) + "\n"


def said(catalogues: Sequence[Path]) -> str:
    """What catalogues of translations say, a line each message."""
    found = (read_catalogue(path.read_text(encoding="utf-8")) for path in catalogues)
    messages = (message for each in found for key, message in each.items() if key and message)
    return "\n".join(messages) + "\n"


def of_text(name: str, text: str, length: Sequence[str]) -> Row:
    """One text's joined model beside the best of its halves."""
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "text.txt", Path(folder) / "run"
        path.write_text(text, encoding="utf-8")
        joined = trained([str(path), "--with-counts", *length, "--out", str(run)])
        network = trained([str(path), "--model", "gpt", *length])
        found = hb.load(run)
        halves = {
            "network alone": network["val_nats_per_char"],
            "n-grams alone": joined["baselines_nats_per_char"]["ngram"],
        }
        if isinstance(found.model, Mixing):
            found.model.mixer_is_off = True
            halves["network with n-grams"] = found.evaluate().nats_per_char
            own = found.dataset()
            halves["mixer alone"] = mixer_alone(
                found.tokenizer, own.train, own.validation, found.model.context_size
            )
    best = min(halves, key=lambda half: halves[half])
    loss, behind = joined["val_nats_per_char"], joined["val_nats_per_char"] - halves[best]
    others = ", ".join(f"{half} {nats:.4f}" for half, nats in halves.items() if half != best)
    worse = f"worse by {behind:.4f}; " if behind > WORSE else ""
    note = f"{worse}{others}; {len(text):,} characters"
    return Row(name, "nats/char", loss, halves[best], best, note=note)


def trained(arguments: Sequence[str]) -> dict[str, Any]:
    """The figures of one command's model."""
    return json.loads(process(["hornbook", "train", *arguments, "--json"]).stdout)


def mixer_alone(tokenizer: Tokenizer, train: Tokens, validation: Tokens, length: int) -> float:
    """A mixer's loss without a network, in the pieces that a joined model is measured in."""
    mixer = Mixer.begin(tokenizer, train)
    mixer.learner().read(train)
    reader = replace(mixer, text=np.array(train, np.int32)).reader()
    nats = []
    for start in range(0, len(validation) - 1, length):
        reader.reset()
        reader.read(validation[start : start + 1])
        nats.append(reader.read(validation[start + 1 : start + length + 1]))
    return float(np.concatenate(nats).mean()) * per_char(tokenizer, validation)
