"""One machine, one seed, one result, to the bit; and another seed, another."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from jobs import hashes, write_text
from processes import Processes


def test_ten_runs_one_hash_and_another_seed_another(
    tmp_path: Path, count: Callable[[int, int], int], tell: Callable[[str, str], None]
) -> None:
    # Two of ten processes, or all ten, are started afresh: each has its own addresses in memory,
    # and Python's hash seed, and with it the order of every set, is told to differ.
    text, found = write_text(tmp_path), []
    fresh = count(2, 10)
    with ExitStack() as stack:
        for start in range(fresh):
            folder = tmp_path / f"processes-{start}"
            folder.mkdir()
            made = stack.enter_context(Processes(folder, PYTHONHASHSEED=str(start)))
            for number in range(10 // fresh):
                run = folder / f"run-{number}"
                assert made.run("train", text=text, run=run).status == 0
                found.append(tuple(hashes(run).values()))
        other = made.run("train", text=text, run=tmp_path / "other", seed=1)
    assert other.status == 0
    assert len(found) == 10
    assert len(set(found)) == 1
    another = hashes(tmp_path / "other")
    assert not set(another.values()) & set(found[0]), "no weights and no optimizer are the same"
    tell(
        "ten runs of one seed, one of another",
        f"10 runs by {fresh} started processes: 1 hash; the other seed: another",
    )
