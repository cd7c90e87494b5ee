"""The loss after some minutes: whole commands with cold caches, compared with nanoGPT.

hornbook's time includes start-up, compilation, training, evaluation, n-gram counts and the report
card. nanoGPT trains for the same time with its recipe for a CPU and a schedule fitted to it;
its evaluation takes additional time. It is evaluated in blocks, because its positions are learned.
"""

import json
import tempfile
from pathlib import Path

import hornbook as hb
from benchmarks.table import Finished, Row, process

MINUTES = (1 / 6, 0.5, 1, 2, 5)


def measure(*, short: bool = False) -> list[Row]:
    """The network with and without n-grams, for each number of minutes; then the defaults."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        corpus = str(text) if short else "shakespeare"
        text.write_text(verse() if short else hb.load_text(corpus), encoding="utf-8")
        if short:
            arguments = [corpus, "--steps", "2", "--set", "n_layer=1"]
            return rows("2 steps", arguments, text, seconds=2.0)
        found = []
        for minutes in MINUTES:
            arguments = [corpus, "--minutes", f"{minutes:.3g}"]
            found += rows(f"{minutes:.2g} minutes", arguments, text, seconds=60 * minutes)
        return [*found, row_of("train (python-docs, 2 minutes)", train([]), None)]


def verse() -> str:
    """A text just long enough to train on."""
    return "".join(f"line {number} of a text to be memorised\n" for number in range(200))


def rows(name: str, arguments: list[str], text: Path, seconds: float) -> list[Row]:
    """The network with and without n-grams, compared with the peer."""
    peer = process(
        ["python", "-m", "benchmarks.peers.nanogpt", str(text), "--seconds", f"{seconds}"]
    )
    return [
        row_of(f"{name}, {kind}", train([*arguments, *more]), peer)
        for kind, more in (("both", []), ("network", ["--model", "gpt"]))
    ]


def train(arguments: list[str]) -> Finished:
    """Run a whole `hornbook train` with cold caches."""
    return process(["hornbook", "train", *arguments, "--json"], cold=True)


def row_of(what: str, ours: Finished, peer: Finished | None) -> Row:
    """A command's loss, time and memory, compared with the peer and with n-gram counts alone."""
    found = json.loads(ours.stdout)
    loss, counted = found["val_nats_per_char"], found["baselines_nats_per_char"]["ngram"]
    note = f"{ours.seconds:.1f} s, {ours.peak_mib:,.0f} MiB; counting alone {counted:.3f}"
    if peer is None:
        return Row(what, "nats/char", loss, note=note)
    theirs = float(peer.stdout.rpartition(" ")[2])
    note = f"{theirs - loss:.3f} lower; {note}"
    return Row(what, "nats/char", loss, theirs, f"nanoGPT, {peer.seconds:.0f} s", note=note)
