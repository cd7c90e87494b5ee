"""Preparing a store: by one process or several, in one attempt or many, always the same store."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from prepared import SHARE, documents, finished, texts, wanted

from hornbook.errors import CheckpointError, ConfigError, DataError, HornbookError
from hornbook.preparation.documents import Reading
from hornbook.preparation.shard import document_hash, is_validation
from hornbook.preparation.work import prepare
from hornbook.runs.verify import verify_store
from hornbook.storage.lock import Lock
from hornbook.text.store import PARTS, open_store


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """200 documents, and every tenth of them once more at the end."""
    path = tmp_path / "records.jsonl"
    every = [*texts(), *texts()[::10]]
    path.write_text(
        "".join(json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in every),
        encoding="utf-8",
    )
    return path


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_each_document_is_in_the_part_of_its_hash_once(records: Path, tmp_path: Path) -> None:
    store = finished(prepare(wanted(records), tmp_path / "store"))
    for number, part in enumerate(PARTS):
        own = [text for text in texts() if is_validation(document_hash(text), SHARE) == number]
        assert documents(store, part) == own
        found = [getattr(shard, part) for shard in store.manifest.shards]
        assert sum(each.documents for each in found) == len(own) > 10
        assert sum(each.characters for each in found) == sum(map(len, own)) + len(own)
    assert store.manifest.dropped.exact_duplicates == 20
    assert len(store.manifest.shards) == 4


def test_duplicates_can_be_kept(records: Path, tmp_path: Path) -> None:
    store = finished(prepare(wanted(records, keep_duplicates=True), tmp_path / "store"))
    assert sum(len(documents(store, part)) for part in PARTS) == 220
    assert store.manifest.dropped.exact_duplicates == 0


def test_jobs_and_processes_make_the_same_store(records: Path, tmp_path: Path) -> None:
    alone = finished(prepare(wanted(records), tmp_path / "alone"))
    together = finished(prepare(wanted(records), tmp_path / "together", workers=2))
    for job in (3, 1):
        part = prepare(wanted(records), tmp_path / "jobs", job=job, jobs=3)
        assert part.store is None
    assert part.written == 3
    by_jobs = finished(prepare(wanted(records), tmp_path / "jobs", job=2, jobs=3))
    assert alone.sha256 == together.sha256 == by_jobs.sha256
    assert shard_bytes(alone.path) == shard_bytes(together.path) == shard_bytes(by_jobs.path)


def test_a_killed_preparation_goes_on_and_does_nothing_twice(records: Path, tmp_path: Path) -> None:
    whole = finished(prepare(wanted(records), tmp_path / "whole"))
    out = tmp_path / "killed"
    options = ["--field", "text", "--vocab-size", "280", "--validation", str(SHARE)]
    # Through the command, whose shards are of a megabyte at least.
    big = tmp_path / "big.jsonl"
    big.write_text(records.read_text(encoding="utf-8") * 40, encoding="utf-8")
    command = ["prepare", str(big), "--out", str(out), *options, "--shard-mb", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hornbook", *command, "--workers", "1"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
    )
    while not [*out.glob("shards/[0-9]*.json")] and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (out / "store.json").exists():
        pytest.skip("it was done before it could be killed")
    before = [*out.glob("shards/[0-9]*.json")]
    with pytest.raises(DataError, match="is not finished"):
        open_store(out)
    made = prepare(wanted(big, unit_bytes=1_000_000), out)
    store = finished(made)
    assert made.made == made.shards - len(before) < made.shards
    assert store.manifest.dropped.exact_duplicates == 40 * 220 - 200
    assert documents(store, "train") == documents(whole, "train")


def test_whole_shards_are_not_made_again(records: Path, tmp_path: Path) -> None:
    prepare(wanted(records), tmp_path / "store", job=1, jobs=2)
    shards = tmp_path / "store" / "shards"
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    (shards / "00002.json").unlink()  # as a kill leaves it before the last of its files
    made = prepare(wanted(records), tmp_path / "store", job=1, jobs=2)
    assert (made.made, made.written) == (1, 2)
    after = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    changed = {name for name in after if after[name] != before[name]}
    assert {name[:5] for name in changed} == {"00002"}


def test_a_passage_after_one_that_is_left_out_begins_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hornbook.preparation import documents as reading_of

    monkeypatch.setattr(reading_of, "ONE_DOCUMENT", 60)
    monkeypatch.setattr(reading_of, "PASSAGE", 30)
    lines = [f"{name * 25}\n" for name in "abcab"]
    text = tmp_path / "long.txt"
    text.write_text("".join(lines), encoding="utf-8")
    plain = wanted(text, reading=Reading(), tokenizer="byte", validation_share=0.3)
    store = finished(prepare(plain, tmp_path / "store"))
    hashes = {line: is_validation(document_hash(line), 0.3) for line in lines}
    assert store.manifest.dropped.exact_duplicates == 2
    found = {line for part in PARTS for each in documents(store, part) for line in each.split("\n")}
    assert found == {"", *(line.strip() for line in lines)}
    for number, part in enumerate(PARTS):
        assert "".join(documents(store, part)) == "".join(
            line for line in dict.fromkeys(lines) if hashes[line] == number
        )


def test_one_process_does_a_job_at_a_time(records: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    held = Lock(tmp_path / "store", ".lock-1-of-2")
    held.acquire()
    with pytest.raises(CheckpointError, match="does the same; give each job a number of its own"):
        prepare(wanted(records), tmp_path / "store", job=1, jobs=2)
    assert prepare(wanted(records), tmp_path / "store", job=2, jobs=2).made == 2
    held.release()
    finishing = Lock(tmp_path / "store", ".lock-finish")
    finishing.acquire()
    made = prepare(wanted(records), tmp_path / "store", job=1, jobs=2)
    assert (made.written, made.store) == (4, None)
    finishing.release()
    assert prepare(wanted(records), tmp_path / "store", job=1, jobs=2).store


def test_another_setting_or_text_is_one_line(records: Path, tmp_path: Path) -> None:
    prepare(wanted(records), tmp_path / "store", job=1, jobs=2)
    with pytest.raises(ConfigError, match="was begun with vocab_size = 280, now it is 300"):
        prepare(wanted(records, vocab_size=300), tmp_path / "store")
    records.write_text('{"text": "another"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="not those it was begun with"):
        prepare(wanted(records), tmp_path / "store")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["book.txt", "--out", "other"], 2, "a folder that is no store"),
        (["book.txt", "--out", "new", "--tokenizer", "char"], 2, "needs every character"),
        (["book.txt", "--out", "new", "--shard", "3/2"], 2, "expected I/N"),
        (["book.txt", "--out", "new", "--validation", "1"], 2, "a share between 0 and 1"),
        (["none.txt", "--out", "new"], 1, "it no longer exists"),
        (["book.txt", "--out", "new", "--tokenizer", "none.json"], 1, "cannot read the tokenizer"),
        (["book.txt", "--out", "new"], 1, "no text is in the validation part, of 1 documents"),
        (["--out", "new"], 2, "expected a source"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str], status: int, message: str,
) -> None:  # fmt: skip
    from hornbook import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("a book\n" * 9, encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert cli.run(["prepare", *arguments, "--quiet"]) == status
    errors = capfd.readouterr().err.strip()
    assert message in errors
    assert "\n" not in errors


def test_damage_is_found_by_verify_and_when_it_is_read(records: Path, tmp_path: Path) -> None:
    store = finished(prepare(wanted(records), tmp_path / "store"))
    path = store.path / store.manifest.shards[1].train.file
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
    stream = open_store(store.path).stream("train")
    with pytest.raises(DataError, match="a shard is damaged: its bytes from 0 on"):
        stream.read(0, len(stream))
    unsound = [each for each in verify_store(store.path).files if not each.sound]
    assert [each.path for each in unsound] == [path]
    path.write_bytes(sound[:-2])
    with pytest.raises(DataError, match=r"a shard is damaged: .* bytes, expected"):
        open_store(store.path)
    path.unlink()
    with pytest.raises(DataError, match="a shard is missing"):
        open_store(store.path)
    path.write_bytes(sound)
    tokenizer = store.path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"ĠB"', '"ĠC"') + " ", encoding="utf-8")
    with pytest.raises(DataError, match="is not the one that the shards were made with"):
        open_store(store.path)
    manifest = store.path / "store.json"
    manifest.write_text(manifest.read_text().replace('"tokens":', '"tokens":1'), encoding="utf-8")
    with pytest.raises(HornbookError, match="damaged"):
        open_store(store.path)


def test_a_sample_lies_all_over_the_store(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hornbook.text import store as stores

    monkeypatch.setattr(stores, "SAMPLED_TRAIN", 1000)
    monkeypatch.setattr(stores, "STRETCHES", 10)
    store = finished(prepare(wanted(records), tmp_path / "store"))
    stream, sample = store.stream("train"), store.sample("train")
    whole = stream.read(0, len(stream))
    assert len(sample.tokens) == 1000
    assert (sample.tokens[:100] == whole[:100]).all()
    assert (sample.tokens[-100:] == whole[-100:]).all()
    # Where a block of the store is in the sample: every one of its tokens that is there.
    starts = np.arange(len(whole) - 20)
    for start, place in zip(starts.tolist(), sample.places(starts, 20).tolist(), strict=True):
        if place >= 0 and sample.starts[place // 100] <= start:
            assert sample.tokens[place] == whole[start]
    assert (sample.places(starts, 20) >= 0).sum() == 10 * 120 - 2 * 20
    assert sum(store.manifest.sampled_characters) == len(
        "".join(store.tokenizer.decode(store.sample(part).tokens) for part in PARTS)
    )
