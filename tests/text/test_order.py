"""The order of blocks: every one once an epoch, as a pure function."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import ConfigError
from hornbook.text.order import PERIOD, BlockOrder, Mixture, Permutation, parse_mix


@given(size=st.integers(1, 3000), key=st.text(max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_permutation_is_a_bijection(size: int, key: str) -> None:
    found = Permutation(size, key)(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))


def test_keys_give_permutations_that_look_random() -> None:
    size = 10_000
    numbers = np.arange(size)
    one, other = (Permutation(size, key)(numbers) for key in ("a", "b"))
    # Random permutations share one place on average, and neither correlates with the identity.
    assert (one == other).sum() < 10
    assert (one == numbers).sum() < 10
    assert abs(np.corrcoef(numbers, one)[0, 1]) < 0.05
    steps = np.abs(np.diff(one)).mean()
    assert abs(steps / size - 1 / 3) < 0.02


def test_a_permutation_of_more_numbers_than_a_table_could_hold() -> None:
    found = Permutation(10**15, "a")(np.arange(1000))
    assert len(set(found.tolist())) == 1000
    assert found.min() >= 0
    assert 10**14 < found.max() < 10**15


@given(blocks=st.integers(1, 2000), chunk=st.integers(1, 9), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_every_epoch_has_each_block_once(blocks: int, chunk: int, seed: int) -> None:
    order = BlockOrder(blocks, chunk, str(seed))
    for epoch in range(2):
        found = order.at(np.arange(epoch * blocks, (epoch + 1) * blocks))
        assert sorted(found.tolist()) == list(range(blocks))


def test_any_batch_of_an_order_is_a_part_of_it() -> None:
    order = BlockOrder(997, 3, "7")
    whole = order.at(np.arange(2500))
    for start in (0, 13, 990, 1990):
        assert (order.at(np.arange(start, start + 17)) == whole[start : start + 17]).all()
    assert (whole[:997] != whole[997:1994]).any()


def test_only_some_chunks_are_read_at_a_time() -> None:
    order = BlockOrder(64 * 5 * 10, 5, "7")  # ten windows of 64 chunks
    first = order.at(np.arange(64 * 5)) // 5
    assert len(set(first.tolist())) == 64
    assert first.max() - first.min() > 320  # from all over the store


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(0, 3 * PERIOD))
@settings(max_examples=25, deadline=None)
def test_a_mixture_has_its_weights_and_counts_its_groups(weights: list[float], some: int) -> None:
    mixture = Mixture({f"g{i}": weight for i, weight in enumerate(weights)})
    groups, places = mixture.places(np.arange(2 * PERIOD))
    shares = np.bincount(groups, minlength=len(weights)) / len(groups)
    assert np.abs(shares - np.array(weights) / sum(weights)).max() <= 1 / PERIOD
    for number in range(len(weights)):
        own = places[groups == number]
        assert (own == np.arange(len(own))).all()  # none is left out, and none comes twice
    counted = np.bincount(mixture.places(np.arange(some))[0], minlength=len(weights))
    assert [*mixture.drawn(some).values()] == counted.tolist()


def test_groups_come_evenly() -> None:
    groups, _ = Mixture({"web": 0.7, "code": 0.3}).places(np.arange(3200))
    of_batches = (groups.reshape(100, 32) == 1).sum(axis=1)
    assert set(of_batches.tolist()) <= {9, 10}


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("web", "expected groups, each once, and weights above 0"),
        ("web=0", "expected groups, each once, and weights above 0"),
        ("web=nan", "expected groups, each once, and weights above 0"),
        ("web=1,web=2", "expected groups, each once, and weights above 0"),
        ("book=1", "the group 'book' is not in the store, which has web, code, none"),
        ("web=1,none=1", "the group 'none' has no training text"),
    ],
)
def test_a_wrong_mix_is_one_line(mix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_mix(mix, {"web": 10, "code": 20, "none": 0})
    assert "\n" not in str(caught.value)
    assert parse_mix(" web=0.7, code=3", {"web": 10, "code": 20}) == {"web": 0.7, "code": 3.0}
