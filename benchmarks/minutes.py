"""The loss after so many minutes: whole commands from cold, beside nanoGPT given the same time.

Start-up, compiling, training, the exact evaluation, the counting and the report card are all in our
time; nanoGPT's recipe for a CPU gets as many steps as fit, its schedule fitted to them, and its
evaluation on top. Its losses are in blocks, as its learned positions have it.
"""

import json
import tempfile
from pathlib import Path

import hornbook as hb
from benchmarks.table import Finished, Row, process

MINUTES = (1 / 6, 0.5, 1, 2, 5)


def measure(*, short: bool = False) -> list[Row]:
    """Both together, and the network alone, for each number of minutes; `train` as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        corpus = str(text) if short else "shakespeare"
        text.write_text(verse() if short else hb.load_text(corpus), encoding="utf-8")
        if short:
            asked = ["--steps", "2", "--set", "n_layer=1"]
            return rows("2 steps", [corpus, *asked], text, seconds=2.0)
        found = []
        for minutes in MINUTES:
            asked = [corpus, "--minutes", f"{minutes:.3g}"]
            found += rows(f"{minutes:.2g} minutes", asked, text, seconds=60 * minutes)
        return [*found, row_of("train (python-docs, 2 minutes)", train([]), None)]


def verse() -> str:
    """A text just long enough to train on."""
    return "".join(f"line {number} of a text to be learned by heart\n" for number in range(200))


def rows(name: str, asked: list[str], text: Path, seconds: float) -> list[Row]:
    """Both together and the network alone, beside the peer."""
    peer = process(
        ["python", "-m", "benchmarks.peers.nanogpt", str(text), "--seconds", f"{seconds}"]
    )
    return [
        row_of(f"{name}, {kind}", train([*asked, *more]), peer)
        for kind, more in (("both", []), ("network", ["--model", "gpt"]))
    ]


def train(asked: list[str]) -> Finished:
    """A whole `hornbook train`, caches cold."""
    return process(["hornbook", "train", *asked, "--json"], cold=True)


def row_of(what: str, ours: Finished, peer: Finished | None) -> Row:
    """A command's loss beside the peer's, with what it took and what counting alone gives."""
    found = json.loads(ours.stdout)
    loss, counted = found["val_nats_per_char"], found["baselines_nats_per_char"]["ngram"]
    note = f"{ours.seconds:.1f} s, {ours.peak_mib:,.0f} MiB; counting alone {counted:.3f}"
    if peer is None:
        return Row(what, "nats/char", loss, note=note)
    theirs = float(peer.stdout.rpartition(" ")[2])
    note = f"{theirs - loss:.3f} lower; {note}"
    return Row(what, "nats/char", loss, theirs, f"nanoGPT, {peer.seconds:.0f} s", note=note)
