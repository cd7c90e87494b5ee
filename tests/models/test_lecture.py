"""The lecture notebook's own outputs, through the public interface."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import hornbook as hb
from hornbook.eval.loss import losses
from hornbook.ngram.counting import best_bigram_loss

LETTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def text(shakespeare_path: Path) -> str:
    return hb.load_text("shakespeare")


@pytest.fixture
def data(text: str) -> torch.Tensor:
    return torch.tensor(hb.CharTokenizer.from_text(text).encode(text), dtype=torch.long)


@pytest.fixture
def train_data(data: torch.Tensor) -> torch.Tensor:
    return data[: int(0.9 * len(data))]


def test_the_text_and_its_alphabet(text: str) -> None:
    tokenizer = hb.CharTokenizer.from_text(text)
    assert len(text) == 1_115_394
    assert "".join(tokenizer.chars) == LETTERS
    assert tokenizer.vocab_size == 65
    assert tokenizer.stoi["a"] == 39
    assert tokenizer.itos[39] == "a"


def test_encoding_and_decoding(text: str) -> None:
    tokenizer = hb.CharTokenizer.from_text(text)
    assert tokenizer.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert tokenizer.decode(tokenizer.encode("hii there")) == "hii there"


def test_the_data_tensor(data: torch.Tensor, train_data: torch.Tensor) -> None:
    assert data.shape == (1_115_394,)
    assert data.dtype == torch.int64
    assert data[:15].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52, 10, 0]
    assert len(train_data) == 1_003_854
    assert len(data) - len(train_data) == 111_540
    assert train_data[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


def test_the_prepared_split_is_the_lectures(data: torch.Tensor, text: str) -> None:
    from hornbook.config import DataConfig
    from hornbook.text.corpus import read_corpus
    from hornbook.text.dataset import prepare

    dataset = prepare(read_corpus("shakespeare"), DataConfig(corpus="shakespeare"))
    assert np.array_equal(dataset.train, data[:1_003_854].numpy())
    assert np.array_equal(dataset.validation, data[1_003_854:].numpy())


def test_the_eight_contexts_and_targets(train_data: torch.Tensor) -> None:
    x, y = train_data[:8], train_data[1:9]
    pairs = [(x[: t + 1].tolist(), int(y[t])) for t in range(8)]
    assert pairs[0] == ([18], 47)
    assert pairs[1] == ([18, 47], 56)
    assert pairs[7] == ([18, 47, 56, 57, 58, 1, 15, 47], 58)


def test_the_first_batch_the_loss_at_birth_and_a_hundred_characters(
    train_data: torch.Tensor,
) -> None:
    torch.manual_seed(1337)
    xb, yb = hb.get_batch(train_data, batch_size=4, block_size=8)
    assert xb.tolist() == [
        [24, 43, 58, 5, 57, 1, 46, 43],
        [44, 53, 56, 1, 58, 46, 39, 58],
        [52, 58, 1, 58, 46, 39, 58, 1],
        [25, 17, 27, 10, 0, 21, 1, 54],
    ]
    assert yb.tolist() == [
        [43, 58, 5, 57, 1, 46, 43, 39],
        [53, 56, 1, 58, 46, 39, 58, 1],
        [58, 1, 58, 46, 39, 58, 1, 46],
        [17, 27, 10, 0, 21, 1, 54, 39],
    ]
    torch.manual_seed(1337)
    model = hb.BigramLanguageModel(65)
    logits, loss = model(xb, yb)
    assert logits.shape == (32, 65)
    assert loss.item() == pytest.approx(4.8786, abs=5e-5)
    idx = model.generate(torch.zeros((1, 1), dtype=torch.long), max_new_tokens=100)
    assert idx.shape == (1, 101)
    assert idx.min() >= 0
    assert idx.max() < 65


def test_a_bigram_trained_as_in_the_notebook_comes_near_the_best_there_is(
    train_data: torch.Tensor,
) -> None:
    torch.manual_seed(1337)
    model = hb.BigramLanguageModel(65)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(10_000):
        xb, yb = hb.get_batch(train_data, batch_size=32, block_size=8)
        _, loss = model(xb, yb)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    best = best_bigram_loss(train_data.numpy(), 65)
    assert best == pytest.approx(2.4519, abs=1e-4)
    exact = losses(model, train_data.numpy().astype(np.uint8), block_size=1000).mean()
    assert best < exact < best + 0.03


def test_the_bigram_preset_is_the_notebooks_training() -> None:
    config = hb.preset("bigram")
    assert (config.train.batch_size, config.model.block_size, config.train.steps) == (32, 8, 10_000)
    assert config.optimizer.optimizer == "adamw"
    assert config.optimizer.learning_rate == 1e-3
    assert config.optimizer.weight_decay == 0
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.999)


def test_ln_65() -> None:
    assert math.log(65) == pytest.approx(4.1744, abs=5e-5)


@pytest.mark.parametrize(("rung", "least", "most"), [("head", 2.38, 2.50), ("heads", 2.25, 2.30)])
def test_a_rung_trained_as_in_the_lecture_reaches_its_figure(
    rung: str, least: float, most: float, shakespeare_path: Path, tmp_path: Path, long_form: bool
) -> None:
    if rung == "heads" and not long_form:
        pytest.skip("in the long form: it takes a minute")
    config = hb.preset(rung).override(corpus="shakespeare", sample_tokens=1)
    assert sum(1 for _ in hb.train(config, out=tmp_path / rung)) == 5000
    assert least < hb.load(tmp_path / rung).evaluate().nats_per_char < most
