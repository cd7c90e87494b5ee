"""Training from a store: every block once an epoch, at any number of ranks, from any step."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small import small_config

import hornbook as hb
from hornbook import training as engine
from hornbook.config import Config, Request
from hornbook.errors import ConfigError, DataError
from hornbook.preparation.documents import Reading
from hornbook.preparation.work import Wanted, prepare
from hornbook.runs.result import revisit
from hornbook.text.batches import stored_blocks
from hornbook.text.dataset import prepare as dataset_of
from hornbook.text.dataset import read_text
from hornbook.text.store import Drawing, Store, what_was_read
from hornbook.training.conclude import conclude
from hornbook.training.trainer import Trainer, begin

LINE = "{name} {i}: whether 'tis nobler in the mind to suffer slings and arrows, number {i}.\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two groups of documents, web and code, in several shards."""
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    for name, count in (("web", 300), ("code", 100)):
        rows = (json.dumps({"text": LINE.format(name=name, i=i)}) for i in range(count))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    sources = [f"{name}={tmp_path / name}.jsonl" for name in ("web", "code")]
    reading = Reading(field="text")
    made = prepare(
        Wanted(sources=sources, reading=reading, tokenizer="byte", validation_share=0.1,
               unit_bytes=6_000),
        tmp_path / "store",
    )  # fmt: skip
    assert made.store is not None
    assert made.shards > 5
    return made.store


def drawing(store: Store, mix: str | None = None, **values: int) -> Drawing:
    return Drawing.of(store, store.sample("train"), mix, **{"block_size": 16, "seed": 7} | values)


def test_an_epoch_has_each_block_of_the_store_once(store: Store) -> None:
    drawn, stream = drawing(store), store.stream("train")
    blocks = drawn.orders[0].blocks
    assert blocks == (len(stream) - 1) // 16
    windows, places = drawn.draw(np.arange(blocks))
    assert sorted(places.tolist()) == [*range(0, 16 * blocks, 16)]
    whole = stream.read(0, len(stream))
    for window, place in zip(windows, places, strict=True):
        assert (window == whole[place : place + 17]).all()


def test_ranks_read_the_same_blocks_whatever_their_number(store: Store) -> None:
    drawn = drawing(store, "web=0.7,code=0.3")
    for index in (0, 3, 1000):
        (alone,) = (stored_blocks(drawn, index, batch_size=8) for _ in range(1))
        for world in (2, 4, 16):
            shares = [
                stored_blocks(drawn, index, batch_size=8, rank=rank, world=world)
                for rank in range(world)
            ]
            found = np.empty_like(alone.inputs)
            for rank, share in enumerate(shares):
                found[rank::world] = share.inputs
            assert (found == alone.inputs.numpy()).all()


def test_a_mixture_reads_its_groups_and_counts_them(store: Store) -> None:
    drawn = drawing(store, "code=1,web=3")
    windows, _ = drawn.draw(np.arange(400))
    read = what_was_read(store, "code=1,web=3", 400, 16)
    assert read["code"]["tokens"] == 100 * 16
    assert read["web"] == {"share": 0.75, "tokens": 4800, "epochs": 4800 / store.groups["web"]}
    together = what_was_read(store, None, 400, 16)
    assert sum(each["tokens"] for each in together.values()) == 6400
    assert len({round(each["epochs"], 2) for each in together.values()}) == 1
    texts = [store.tokenizer.decode(row) for row in windows]
    assert not any(
        "web" in texts[i] for i in range(400) if drawn.mixture.places(np.array([i]))[0][0] == 0
    )
    sizes = store.groups
    assert sum(len(stream) for stream in drawn.streams) == sum(sizes.values())


def run(store: Store, tmp_path: Path, **values: object) -> Config:
    return small_config(tmp_path / "store", block_size=16, **values)


def trained(trainer: Trainer, *, stop_at: int | None = None) -> Trainer:
    for metrics in engine.steps(trainer):
        if metrics.step == stop_at:
            break
    return trainer


def weights(trainer: Trainer) -> list[float]:
    return [float(value.double().sum()) for value in trainer.state.model.state_dict().values()]


@pytest.mark.parametrize("more", [{}, {"mix": "web=1,code=1"}, {"with_counts": True}])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    store: Store, tmp_path: Path, more: dict[str, object]
) -> None:
    config = run(store, tmp_path, **more)
    whole = trained(begin(config, out=tmp_path / "whole"))
    trained(begin(config, out=tmp_path / "halves"), stop_at=5)
    halves = trained(engine.resume(tmp_path / "halves"))
    assert weights(halves) == weights(whole)
    assert halves.state.step == 8
    if more:
        return
    result = conclude(halves)
    read = result.as_dict()["store"]["read"]
    assert sum(each["tokens"] for each in read.values()) == 8 * 4 * 16
    again = revisit(tmp_path / "halves")
    assert again.evaluation == result.evaluation
    assert halves.folder.settings().data.tokenizer == "byte"
    assert hb.load(tmp_path / "halves").generate("web", max_new_tokens=3)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_shard_damaged_while_a_run_trains_loses_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a shard of the store is in no sample: its damage is found when a block is read.
    from hornbook.text import store as stores

    monkeypatch.setattr(stores, "SAMPLED_TRAIN", 400)
    monkeypatch.setattr(stores, "STRETCHES", 2)
    trainer = begin(run(store, tmp_path, checkpoint_interval=50, steps=12), out=tmp_path / "run")
    path = store.path / store.manifest.shards[3].train.file
    sound = path.read_bytes()
    damage(path)
    with pytest.raises(DataError, match="a shard is damaged") as caught:
        trained(trainer)
    assert "\n" not in str(caught.value)
    stopped = trainer.state.step
    assert stopped < 12
    path.write_bytes(sound)
    again = engine.resume(tmp_path / "run")
    assert again.state.step == stopped
    whole = trained(begin(run(store, tmp_path, steps=12), out=tmp_path / "whole"))
    assert weights(trained(again)) == weights(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "store.json").unlink(), "this store is not finished"),
        (lambda path: next(path.glob("shards/*.bin")).unlink(), "a shard is missing"),
        (lambda path: damage(path / "store.json"), "store.json"),
        (lambda path: damage(path / "tokenizer.json"), "tokenizer"),
    ],
)
def test_a_store_that_is_no_store_is_one_line(
    store: Store,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    message: str,
) -> None:
    from hornbook import cli

    change(store.path)
    assert cli.run(["train", str(store.path), "--steps", "3", "--out", str(tmp_path / "run")]) == 1
    errors = capfd.readouterr().err.strip()
    assert message in errors
    assert "\n" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": "books=1"}, "the group 'books' is not in the store, which has web, code"),
        ({"field": "text"}, "--field is for hornbook prepare"),
        ({"normalize": "nfc"}, "was prepared with none"),
        ({"tokenizer": "bpe"}, "has byte tokens"),
    ],
)
def test_settings_of_another_text_are_refused(
    store: Store, settings: dict[str, str], message: str
) -> None:
    data = Config().override(corpus=str(store.path), **settings).data
    with pytest.raises(ConfigError, match=message):
        read_text(data)


def test_a_store_of_another_tokenizer_is_refused(store: Store) -> None:
    data = Config().override(corpus=str(store.path)).data
    other = hb.CharTokenizer.from_text("abc")
    with pytest.raises(DataError, match="is of another tokenizer"):
        dataset_of(read_text(data), data, other)


def test_a_plan_sees_all_of_a_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hornbook.text import store as stores

    monkeypatch.setattr(stores, "SAMPLED_TRAIN", 3000)
    dataset = dataset_of(read_text(run(store, tmp_path).data), run(store, tmp_path).data)
    assert len(dataset.train) == 3000 < dataset.train_tokens == len(store.stream("train"))
    trainer = begin(Request.of(run(store, tmp_path)), out=tmp_path / "run")
    assert trainer.drawing is not None
    assert trainer.drawing.orders[0].blocks == (dataset.train_tokens - 1) // 16
    assert trainer.split is not None
    assert "of the sampled 3,000 tokens" in trainer.split.copied.sentence().replace(
        "in the", "of the"
    )
    trainer.lock.release()


def test_the_end_is_held_out_for_a_mixer(store: Store) -> None:
    whole = len(store.stream("train"))
    drawn = drawing(store, held_out=1000)
    assert drawn.orders[0].blocks == (whole - 1000 - 1) // 16
    mixed = drawing(store, "web=1,code=1", held_out=1000)
    assert mixed.orders[0].blocks == (store.groups["web"] - 1) // 16
    assert mixed.orders[1].blocks == (store.groups["code"] - 1000 - 1) // 16
    with pytest.raises(DataError, match="one block needs 100,001"):
        drawing(store, block_size=100_000)
