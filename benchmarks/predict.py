"""How well a text's last tenth is predicted after the rest: our models, and compressors.

Frozen models learn nothing from the last tenth. Dynamic ones, and compressors, learn it as they
read it. A compressor's loss is the size of the compressed whole less that of the compressed first
part; its memory is the same for both. Ours are whole commands with cold caches, then `hornbook
eval --dynamic`, which measures every position.
"""

import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import hornbook as hb
from benchmarks.minutes import verse
from benchmarks.table import Row, process
from hornbook.report.compression import ppmd_size

TEXTS = ("python-docs", "shakespeare", "korean-novels")
ORDERS = (4, 6, 8, 10, 16)
PPMD_MEMORY = 512 << 20
KINDS: dict[str, list[str]] = {
    "both": [],
    "network alone": ["--model", "gpt"],
    "counts alone": ["--model", "ngram"],
}


def measure(
    *,
    short: bool = False,
    seeds: int = 3,
    minutes: Sequence[float] = (2,),
    paq8px: Path | None = None,
) -> list[Row]:
    """All predictors of each text."""
    if short:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            text.write_text(verse(), encoding="utf-8")
            few = ["--steps", "2", "--set", "n_layer=1"]
            kinds = {"both": KINDS["both"]}
            return of_text("2 steps", str(text), verse(), [few], orders=(6,), kinds=kinds)
    found: list[Row] = []
    for name in TEXTS:
        lengths = [["--minutes", f"{each:g}"] for each in minutes]
        text = hb.load_text(name)
        found += of_text(name, name, text, lengths, seeds=seeds, paq8px=paq8px)
    return found


def of_text(
    name: str,
    corpus: str,
    text: str,
    lengths: Sequence[Sequence[str]],
    *,
    seeds: int = 1,
    paq8px: Path | None = None,
    orders: Sequence[int] = ORDERS,
    kinds: Mapping[str, Sequence[str]] = KINDS,
) -> list[Row]:
    """Compressors, then each kind of model for each length of training, on one text."""
    cut = int(0.9 * len(text))
    first, last = text[:cut].encode(), text[cut:].encode()
    nats = 8 * math.log(2) / (len(text) - cut)
    by_order = {order: nats * ppmd_size(first, last, order, PPMD_MEMORY) for order in orders}
    best = min(by_order, key=lambda order: by_order[order])
    rows = [
        Row(f"{name}, PPMd order {order}", "nats/char", loss, note="512 MB")
        for order, loss in by_order.items()
    ]
    peer, peer_name = by_order[best], f"PPMd order {best}"
    if paq8px is not None:
        size = paq8px_size(paq8px, first + last) - paq8px_size(paq8px, first)
        peer, peer_name = nats * size, "paq8px -6"
        rows.append(Row(f"{name}, paq8px", "nats/char", peer, note=f"{paq8px.name} -6"))
    for length in lengths:
        for kind, more in kinds.items():
            counted = kind == "counts alone"  # without seed and minutes
            if counted and length is not lengths[0]:
                continue
            runs = [
                trained([corpus, *more, *([] if counted else [*length, "--seed", str(1337 + i)])])
                for i in range(1 if counted else seeds)
            ]
            what = f"{name}, {kind}" + ("" if counted else f", {' '.join(length[:2])}")
            frozen, dynamic = ([run[i] for run in runs] for i in (0, 1))
            rows += [
                Row(f"{what}: frozen", "nats/char", statistics.mean(frozen), note=listed(frozen)),
                Row(
                    f"{what}: dynamic", "nats/char", statistics.mean(dynamic), peer, peer_name,
                    note=listed(dynamic),
                ),
            ]  # fmt: skip
    return rows


def trained(arguments: list[str]) -> tuple[float, float]:
    """The frozen and the dynamic loss of one command's model."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        command = ["hornbook", "train", *arguments, "--out", out, "--json"]
        # Only with a time limit does it matter what is compiled already.
        done = process(command, cold="--minutes" in arguments)
        frozen = json.loads(done.stdout)["val_nats_per_char"]
        found = process(["hornbook", "eval", out, "--dynamic", "--json"])
        return frozen, json.loads(found.stdout)["dynamic_nats_per_char"]


def listed(losses: Sequence[float]) -> str:
    """The figures of all seeds."""
    return "" if len(losses) == 1 else "seeds: " + ", ".join(f"{each:.4f}" for each in losses)


def paq8px_size(program: Path, data: bytes) -> int:
    """The size of a text compressed by paq8px at level 6."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_bytes(data)
        command = [str(program.resolve()), "-6", "text.txt"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        written = [path for path in Path(folder).iterdir() if path.name != "text.txt"]
        if done.returncode or len(written) != 1:
            raise SystemExit(
                f"{program} -6 ended with status {done.returncode}, and wrote {written}"
            )
        return written[0].stat().st_size
