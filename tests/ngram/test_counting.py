"""Counting: held to a slow reference, to nltk, to figures worked by hand, and to Shakespeare."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated, Lidstone, WittenBellInterpolated

from hornbook.errors import ConfigError, DataError
from hornbook.ngram.counting import best_bigram_loss, bigram_counts
from hornbook.ngram.model import FALLBACK_DISCOUNTS, NGramModel, estimate_discounts
from hornbook.ngram.states import NGramStates
from hornbook.ngram.tuning import tune

SMOOTHINGS = ("mle", "add-k", "witten-bell", "kneser-ney")
ADD_K = 0.3


def reference_prob(tokens, vocab_size, context, token, *, order, smoothing, discounts):
    """p(token | context) straight from the definitions, one dictionary at a time."""
    text, started = tuple(tokens), (None, *tokens)

    def grams(n):
        if smoothing == "kneser-ney" and n < order:
            longer = {started[i : i + n + 1] for i in range(len(started) - n)}
            return Counter(gram[1:] for gram in longer)
        return Counter(text[i : i + n] for i in range(len(text) - n + 1))

    def prob(context):
        followers = {
            gram[-1]: c for gram, c in grams(len(context) + 1).items() if gram[:-1] == context
        }
        c, total, types = followers.get(token, 0), sum(followers.values()), len(followers)
        if smoothing == "add-k":
            return (c + ADD_K) / (total + ADD_K * vocab_size)
        shorter = prob(context[1:]) if context else 1 / vocab_size
        if not followers:
            return shorter
        if smoothing == "mle":
            return c / total
        if smoothing == "witten-bell":
            return (c + types * shorter) / (total + types)
        row = discounts[len(context)]
        taken = {t: row[min(n, 3) - 1] for t, n in followers.items()}
        return (c - taken.get(token, 0) + sum(taken.values()) * shorter) / total

    return prob(tuple(context)[max(0, len(context) - order + 1) :])


@st.composite
def problems(draw):
    vocab_size = draw(st.integers(1, 5))
    token = st.integers(0, vocab_size - 1)
    order = draw(st.integers(1, 5))
    train = draw(st.lists(token, min_size=order, max_size=40))
    text = draw(st.lists(token, min_size=1, max_size=12))
    return vocab_size, order, train, text


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from(SMOOTHINGS))
def test_equals_the_reference_and_sums_to_one(problem, smoothing):
    vocab_size, order, train, text = problem
    discounts = np.linspace(0.1, 0.9, order)[:, None] * [1, 2, 3]
    model = NGramModel.fit(
        train, vocab_size, order=order, smoothing=smoothing, add_k=ADD_K, discounts=discounts
    )
    scores = np.exp(model.log_probs(text))
    settings = {"order": order, "smoothing": smoothing, "discounts": discounts}
    for t, token in enumerate(text):
        p = model.probs(text[:t])
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert p.min() >= 0
        expected = reference_prob(train, vocab_size, text[:t], token, **settings)
        assert p[token] == pytest.approx(expected, abs=1e-12)
        assert scores[t] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(problems())
def test_estimated_discounts_sum_to_one_and_leave_nothing_impossible(problem):
    vocab_size, order, train, text = problem
    model = NGramModel.fit(train, vocab_size + 1, order=order)  # one token is never seen
    p = model.probs(text)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p.min() > 0


@settings(max_examples=30, deadline=None)
@given(problems(), st.sampled_from(SMOOTHINGS))
def test_context_stands_before_the_first_token(problem, smoothing):
    vocab_size, order, train, text = problem
    model = NGramModel.fit(train, vocab_size, order=order, smoothing=smoothing)
    for t in range(len(text)):
        rest = model.log_probs(text[t:], context=text[:t])
        np.testing.assert_allclose(rest, model.log_probs(text)[t:], atol=1e-12)


def test_a_vocabulary_too_large_for_one_key():
    """50,000 tokens and order 9 need 140 bits: the sort goes on from ranks."""
    rng = np.random.default_rng(0)
    names = rng.choice(50_000, size=4, replace=False)
    train, text = (
        names[rng.integers(4, size=200)].tolist(),
        names[rng.integers(4, size=20)].tolist(),
    )
    settings = {"order": 9, "smoothing": "kneser-ney", "discounts": np.full((9, 3), 0.7)}
    scores = np.exp(NGramModel.fit(train, 50_000, **settings).log_probs(text))
    for t, token in enumerate(text):
        expected = reference_prob(train, 50_000, text[:t], token, **settings)
        assert scores[t] == pytest.approx(expected, rel=1e-9)


# Worked by hand on "abab c" (a = 0, b = 1, c = 2), that is ab 2, ba 1, bc 1.
ABABC = [0, 1, 0, 1, 2]


def test_maximum_likelihood_by_hand():
    model = NGramModel.fit(ABABC, 3, order=2, smoothing="mle")
    np.testing.assert_allclose(model.probs([1]), [1 / 2, 0, 1 / 2])
    np.testing.assert_allclose(model.probs([2]), [2 / 5, 2 / 5, 1 / 5])  # c ends the text
    assert model.log_probs([1, 1])[1] == -np.inf


def test_add_k_by_hand():
    model = NGramModel.fit(ABABC, 3, order=2, smoothing="add-k", add_k=1)
    np.testing.assert_allclose(model.probs([0]), [1 / 5, 3 / 5, 1 / 5])
    np.testing.assert_allclose(model.probs([2]), [1 / 3, 1 / 3, 1 / 3])


def test_kneser_ney_by_hand():
    # Predecessors: a after the start and b, so 2; b after a, 1; c after b, 1. A quarter and half of
    # each is taken at order 1, (1/4 + 1/2 + 1/4) of 4 going to the uniform third.
    model = NGramModel.fit(ABABC, 3, order=2, discounts=[[0.25, 0.5, 0.75], [0.5, 1.0, 1.5]])
    unigram = np.array([1.5, 0.75, 0.75]) / 4 + 1 / 4 / 3
    np.testing.assert_allclose(model.probs(), unigram)
    np.testing.assert_allclose(model.probs([0]), [0, 1 / 2, 0] + 1 / 2 * unigram)
    np.testing.assert_allclose(model.probs([1]), [1 / 4, 0, 1 / 4] + 1 / 2 * unigram)


def test_estimated_discounts_by_hand():
    counts = np.repeat([1, 2, 3, 4, 9], [10, 4, 2, 1, 5])
    y = 10 / 18
    expected = [1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2]
    np.testing.assert_allclose(estimate_discounts(counts), expected)


@pytest.mark.parametrize("counts", [[1, 1, 1], [5], [1, 2, 3, 3, 3, 3, 3, 3, 3, 3]])
def test_degenerate_counts_of_counts_fall_back(counts):
    assert tuple(estimate_discounts(np.array(counts))) == FALLBACK_DISCOUNTS


def random_texts(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(5, size=250).tolist(), rng.integers(5, size=60).tolist()


def nltk_probs(model, train, text, start=""):
    """Fit an nltk model, which reads letters, and score the text with it."""
    letters = start + "".join("abcde"[token] for token in train)
    n_letters = range(1, model.order + 1)
    grams = [tuple(letters[i : i + n]) for n in n_letters for i in range(len(letters) - n + 1)]
    model.fit([grams], vocabulary_text=letters)
    scored = ["abcde"[token] for token in text]
    return [model.score(w, scored[max(0, t - model.order + 1) : t]) for t, w in enumerate(scored)]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_equals_nltk_kneser_ney(order):
    """One discount everywhere, but none at order 1: nltk has nothing below its unigrams.

    nltk reads one symbol more, before the text, where we count the start as a predecessor.
    """
    train, text = random_texts(order)
    theirs = KneserNeyInterpolated(order, discount=0.6)
    discounts = [[0, 0, 0], *[[0.6, 0.6, 0.6]] * (order - 1)]
    ours = NGramModel.fit(train, 5, order=order, discounts=discounts)
    expected = nltk_probs(theirs, train, text, start="^")
    np.testing.assert_allclose(np.exp(ours.log_probs(text)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_nltk_witten_bell(order):
    """nltk leaves its unigrams unsmoothed; given ours there, all its longer contexts agree."""
    train, text = random_texts(order)
    theirs = WittenBellInterpolated(order)
    unigram = {"abcde"[w]: (train.count(w) + 5 / 6) / (len(train) + 5) for w in range(5)}
    theirs.estimator.unigram_score = unigram.get
    ours = NGramModel.fit(train, 6, order=order, smoothing="witten-bell")
    expected = nltk_probs(theirs, train, text)
    np.testing.assert_allclose(np.exp(ours.log_probs(text)), expected, rtol=0, atol=1e-9)


def test_equals_nltk_lidstone():
    train, text = random_texts(0)
    ours = NGramModel.fit(train, 6, order=3, smoothing="add-k", add_k=0.2)  # nltk adds <UNK>
    expected = nltk_probs(Lidstone(0.2, 3), train, text)
    np.testing.assert_allclose(np.exp(ours.log_probs(text)), expected, rtol=0, atol=1e-9)


def repetitive_text(n_tokens, seed=0):
    """Random words of a small vocabulary, so that long contexts recur."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(1, 8, size=rng.integers(2, 6)) for _ in range(30)]
    chosen = [np.append(words[i], 0) for i in rng.zipf(1.5, size=n_tokens) % 30]
    return np.concatenate(chosen)[:n_tokens]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_states_give_the_probabilities_of_their_contexts(smoothing):
    text = repetitive_text(500)
    model = NGramModel.fit(text, 9, order=4, smoothing=smoothing)
    states = NGramStates(model)
    state = states.BEGINNING
    for t, token in enumerate(text[:200]):
        np.testing.assert_allclose(states.probs(state), model.probs(text[:t]), atol=1e-12)
        state = states.after(state, token)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_arrays_come_back_memory_mapped(tmp_path, smoothing):
    text = repetitive_text(300)
    model = NGramModel.fit(text[:200], 9, order=3, smoothing=smoothing)
    for name, array in model.arrays().items():
        assert array.ndim == 1
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")}
    again = NGramModel.from_arrays(mapped)
    assert (again.order, again.vocab_size, again.smoothing) == (3, 9, smoothing)
    np.testing.assert_array_equal(again.log_probs(text[200:]), model.log_probs(text[200:]))


@pytest.mark.parametrize("name", ["smoothing", "vocab_size", "kept.2"])
def test_a_missing_array_is_named(name):
    arrays = NGramModel.fit(ABABC, 3, order=2).arrays()
    del arrays[name]
    with pytest.raises(DataError, match=name):
        NGramModel.from_arrays(arrays)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ([0, 3], "from 0 to 2, got 0 to 3"),
        ([-1, 0], "from 0 to 2, got -1 to 0"),
        ([[0, 1]], "a row of integer tokens"),
        ([0.0, 1.0], "a row of integer tokens"),
        ([0], "at least 2 tokens"),
        ([], "at least 2 tokens"),
    ],
)
def test_tokens_that_cannot_be_counted(tokens, match):
    with pytest.raises(DataError, match=match):
        NGramModel.fit(tokens, 3, order=2)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"order": 0}, "order"),
        ({"smoothing": "laplace"}, "kneser-ney"),
        ({"smoothing": "add-k", "add_k": 0}, "add_k"),
        ({"order": 2, "discounts": [[0.5, 0.5, 0.5]]}, r"shape \(2, 3\)"),
        ({"order": 1, "discounts": [[1.5, 0.5, 0.5]]}, "from 0 to the count"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(ConfigError, match=match):
        NGramModel.fit(ABABC, **{"vocab_size": 3, **settings})


def test_scoring_refuses_what_it_cannot_do():
    model = NGramModel.fit(ABABC, 3, order=2)
    with pytest.raises(DataError, match="from 0 to 2"):
        model.log_probs([0, 5])
    with pytest.raises(DataError, match="from 0 to 2"):
        model.probs([5])
    with pytest.raises(DataError, match="at least 1 token"):
        model.cross_entropy([])


def test_tuning_beats_the_estimate_on_held_out_text():
    text = repetitive_text(4000)
    counted, held_out = text[:3600], text[3600:]
    tuned = tune(text, 9, max_order=6)
    assert tuned.discounts.shape == (tuned.order, 3)
    assert tuned.losses_nats[tuned.order] == min(tuned.losses_nats.values())
    model = NGramModel.fit(counted, 9, order=tuned.order, discounts=tuned.discounts)
    assert model.cross_entropy(held_out) == pytest.approx(tuned.losses_nats[tuned.order], abs=1e-4)
    for order in range(1, 7):
        estimated = NGramModel.fit(counted, 9, order=order).cross_entropy(held_out)
        alone = tune(text, 9, min_order=order, max_order=order)
        assert alone.losses_nats.keys() == {order}
        assert alone.losses_nats[order] < estimated - (0.01 if order == 3 else -1e-3)
        assert tuned.losses_nats[tuned.order] <= alone.losses_nats[order]


def test_no_small_step_improves_the_tuned_discounts():
    rng = np.random.default_rng(1)
    misprinted = rng.random(10_000) < 0.15  # so that the best discounts are neither 0 nor all
    text = np.where(misprinted, rng.integers(9, size=10_000), repetitive_text(10_000, seed=1))
    counted, held_out = text[:9000], text[9000:]
    order, discounts, losses = tune(text, 9, max_order=6)

    def loss(table):
        return NGramModel.fit(counted, 9, order=order, discounts=table).cross_entropy(held_out)

    least = loss(discounts)
    assert order >= 3
    assert losses[order] == pytest.approx(least, abs=1e-4)
    for step in np.eye(discounts.size).reshape(-1, *discounts.shape) * [0.1, 0.2, 0.3]:
        for moved in (discounts + step, discounts - step):
            assert loss(np.clip(moved, 0, [1, 2, 3])) > least - 3e-4


def test_tuning_refuses_a_text_too_short():
    with pytest.raises(DataError, match="too short"):
        tune([0, 1] * 20, 2, max_order=10)


def test_bigrams_by_hand():
    np.testing.assert_array_equal(bigram_counts(ABABC, 3), [[0, 2, 0], [1, 0, 1], [0, 0, 0]])
    assert best_bigram_loss(ABABC, 3) == pytest.approx(2 * np.log(2) / 4)
    with pytest.raises(DataError, match="at least 2"):
        best_bigram_loss([0], 3)


def test_no_bigram_table_beats_the_best_bigram_loss():
    text = repetitive_text(300)
    model = NGramModel.fit(text, 9, order=2, smoothing="mle")
    assert -model.log_probs(text)[1:].mean() == pytest.approx(best_bigram_loss(text, 9), abs=1e-12)


@pytest.fixture
def shakespeare(shakespeare_path):
    text = shakespeare_path.read_text(encoding="utf-8")
    numbers = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = np.array([numbers[character] for character in text])
    n_train = int(0.9 * len(tokens))
    return tokens[:n_train], tokens[n_train:], len(numbers)


def test_shakespeare_bigrams(shakespeare):
    train, _, vocab_size = shakespeare
    assert best_bigram_loss(train, vocab_size) == pytest.approx(2.4519, abs=1e-4)


def test_shakespeare_with_estimated_discounts(shakespeare):
    train, val, vocab_size = shakespeare
    model = NGramModel.fit(train, vocab_size, order=7)
    assert model.cross_entropy(val) == pytest.approx(1.5165, abs=1e-4)


def test_shakespeare_with_tuned_discounts(shakespeare):
    train, val, vocab_size = shakespeare
    tuned = tune(train, vocab_size)
    model = NGramModel.fit(train, vocab_size, order=tuned.order, discounts=tuned.discounts)
    assert model.cross_entropy(val) == pytest.approx(1.4906, abs=2e-4)
