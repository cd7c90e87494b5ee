"""How fast a training text is indexed, and a text of 1,000 characters traced in it.

The text is Python source code: the standard library and the installed packages, each file once, in
the order of their paths, up to a size. Its last hundredth is held out and traced. Each size runs in
a separate process, whose peak resident memory is measured.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.table import Row

MEGABYTES = (1, 10, 100)

CHILD = """
import json, resource, statistics, sys, sysconfig, tempfile, time
from pathlib import Path
from hornbook.ngram.suffix_array import SuffixArray

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def timed(action, *arguments):
    started = time.perf_counter()
    return action(*arguments), time.perf_counter() - started

wanted, pieces = float(sys.argv[1]) * 1e6, []
seen = set()
for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
    for path in sorted(Path(root).rglob("*.py")):
        if wanted > 0 and path.resolve() not in seen:
            seen.add(path.resolve())
            data = path.read_bytes()[: int(wanted)]
            wanted -= len(data)
            pieces.append(data.decode("utf-8", "ignore"))
text = "".join(pieces)
cut = len(text) * 99 // 100
training, held_out = text[:cut], text[cut:]
size = len(training.encode()) / 1e6
del pieces, text
before = peak()
index, built = timed(SuffixArray.build, training)
most = peak()
with tempfile.TemporaryDirectory() as folder:
    _, saved = timed(index.save, folder + "/copies")
    del index
    index, opened = timed(SuffixArray.open, folder + "/copies", training)
    places = range(0, len(held_out) - 1000, max(1, len(held_out) // 40))
    def trace(piece): return index.match_lengths(piece, 20), index.matches(piece, 20)
    times = [timed(trace, held_out[place : place + 1000])[1] for place in places]
figures = dict(megabytes=size, ascii=training.isascii(), built=built, before=before, peak=most,
               saved=saved, opened=opened, traced=statistics.median(times), slowest=max(times))
print(json.dumps(figures))
"""


def measure(*, short: bool = False, megabytes: tuple[float, ...] = MEGABYTES) -> list[Row]:
    """Indexing, opening and tracing, for each size of training text."""
    return [row for size in ((0.2,) if short else megabytes) for row in one_size(size)]


def one_size(megabytes: float) -> Iterator[Row]:
    """The figures for one size."""
    command = [sys.executable, "-c", CHILD, str(megabytes)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    what = f"{found['megabytes']:.3g} MB"
    letters = "ASCII" if found["ascii"] else "not only ASCII"
    yield Row(f"{what}: indexed", "s", found["built"], note=letters)
    yield Row(
        f"{what}: memory while indexing",
        "MiB",
        found["peak"],
        ceiling=found["before"],
        ceiling_name="before",
    )
    yield Row(f"{what}: index saved", "s", found["saved"])
    yield Row(f"{what}: index opened and checked", "s", found["opened"])
    yield Row(
        f"{what}: 1,000 characters traced",
        "ms",
        found["traced"] * 1e3,
        note=f"median over the held-out text; slowest {found['slowest'] * 1e3:.0f} ms",
    )
