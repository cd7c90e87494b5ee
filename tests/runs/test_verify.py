"""`verify`: what is sound is said so, and what is not is found, whatever it is."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import hornbook as hb
from hornbook.errors import CheckpointError
from hornbook.runs.verify import verify

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verify")
    (place / "fox.txt").write_text(TEXT, encoding="utf-8")
    config = hb.preset("bigram").override(
        corpus=str(place / "fox.txt"), steps=4, eval_interval=2, sample_tokens=3, keep_last=2,
        checkpoint_interval=2, batch_size=2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        list(hb.train(config, out=place / "run"))
    return place / "run"


def test_a_sound_run_is_said_so_with_the_hashes_of_its_files(run: Path) -> None:
    found = verify(run).as_dict()
    assert found["sound"]
    assert [(each["kind"], each["step"]) for each in found["checkpoints"]] == [
        ("step", 4), ("step", 2), ("best", 4),
    ]  # fmt: skip
    last = found["checkpoints"][0]
    for name, key in (("model", "weights_sha256"), ("optimizer", "optimizer_sha256")):
        data = (Path(last["path"]) / f"{name}.safetensors").read_bytes()
        assert last[key] == hashlib.sha256(data).hexdigest()
    assert found["checkpoints"][2]["optimizer_sha256"] is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "config.toml",
        "environment.json",
        "tokenizer.json",
        "run.json",
        "checkpoints/step-00000002/model.safetensors",
        "checkpoints/step-00000004/optimizer.safetensors",
        "checkpoints/step-00000004/state.json",
        "checkpoints/best-00000004/manifest.json",
    ],
)
def test_harm_is_found_and_named(
    name: str, harm: Callable[[Path], None], run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    harm(copy / name)
    verdict = verify(copy)
    assert not verdict.sound
    faults = " ".join(
        each.fault for each in (*verdict.files, *verdict.checkpoints) if each.fault is not None
    )
    assert name.rpartition("/")[2] in faults
    if "/" not in name:
        with pytest.raises(CheckpointError, match=name):
            hb.load(copy)


def test_rows_out_of_order_are_found_and_a_torn_last_one_is_forgiven(
    run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows) + rows[0][:9])
    assert verify(copy).sound
    (copy / "metrics.jsonl").write_text(rows[0] + "".join(rows[2:]))
    assert not verify(copy).sound


def test_a_checkpoint_of_another_name_or_shape_is_found(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "step-00000002")
    renamed = copy / "checkpoints" / "step-00000009"
    (copy / "checkpoints" / "step-00000004").rename(renamed)
    faults = [each.fault for each in verify(copy).checkpoints if each.fault]
    assert len(faults) == 1
    assert "renamed or exchanged" in faults[0]


def test_the_index_of_copies_is_held_to_its_hashes(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    assert not [each for each in verify(copy).files if each.path == copy / "copies"]
    hb.trace(copy, TEXT[:60])
    (found,) = (each for each in verify(copy).files if each.path == copy / "copies")
    assert found.sound
    # A flip in the manifest's hash of the text is found when the text is at hand: by `trace`.
    for name, harm in (("suffixes.bin", flip), ("manifest.json", truncate)):
        sound = (copy / "copies" / name).read_bytes()
        harm(copy / "copies" / name)
        (found,) = (each for each in verify(copy).as_dict()["files"] if not each["sound"])
        assert found["path"] == str(copy / "copies")
        (copy / "copies" / name).unlink()
        assert not verify(copy).sound
        (copy / "copies" / name).write_bytes(sound)


def test_a_run_of_another_format_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    manifest = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(CheckpointError, match="run format 99"):
        hb.load(copy)


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        verify(tmp_path / "none")
