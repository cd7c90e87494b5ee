"""Generation: cached equals uncached, samplers keep their promises, stop strings are found."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_gpt

import hornbook as hb
from hornbook.config import READ_AT_ONCE, SamplingConfig
from hornbook.errors import CheckpointError, UnknownCharacterError
from hornbook.infer import Engine, probabilities, tokens
from hornbook.infer.batch import Batch
from hornbook.infer.sampling import draw, log_probs
from hornbook.infer.text import StopStrings, Text, start_token
from hornbook.infer.torch_decoder import TorchDecoder
from hornbook.text.tokenizer import Tokenizer

GREEDY = SamplingConfig(temperature=0)


def engine(tokenizer: Tokenizer, rows: int = 1) -> Engine:
    return Engine(TorchDecoder(small_gpt(), rows=rows), tokenizer)


def until(pieces: Sequence[str], stop: Sequence[str]) -> list[str]:
    strings = StopStrings(stop)
    return [*map(strings.push, pieces), strings.end()]


def spell(drawn: Sequence[int], tokenizer: Tokenizer) -> str:
    text = Text(tokenizer)
    return "".join([*map(text.push, drawn), text.end()])


@pytest.mark.parametrize("prompt_length", [1, 5, 16, 40, READ_AT_ONCE - 20])
def test_cached_decoding_is_uncached_decoding_past_block_and_context(prompt_length: int) -> None:
    model = small_gpt()
    prompt = torch.randint(11, (prompt_length,)).tolist()
    drawn = [
        list(itertools.islice(tokens(model, prompt, sampling=GREEDY, cached=cached), 60))
        for cached in (True, False)
    ]
    assert drawn[0] == drawn[1]


def test_cached_logits_are_the_whole_forward_passes() -> None:
    model = small_gpt()
    idx = torch.randint(11, (2, 50))  # of which a layer sees 16 back
    expected, _ = model(idx)
    cache = model.new_cache(batch_size=2)
    for start, end in ((0, 5), (5, 6), (6, 16), (16, 17), (17, 20), (20, 50)):
        with torch.no_grad():
            logits = model.next_logits(idx[:, start:end], cache)
        torch.testing.assert_close(logits, expected[:, end - 1], rtol=1e-4, atol=1e-5)


def test_a_seed_fixes_the_text_and_leaves_torchs_stream_alone() -> None:
    model = small_gpt()
    before = torch.get_rng_state()
    texts = [list(itertools.islice(tokens(model, [1], seed=seed), 30)) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_lectures_generate_and_the_fast_one_draw_from_one_distribution() -> None:
    model = hb.BigramLanguageModel(5)
    expected = torch.softmax(model.token_embedding_table.weight[2], dim=-1)
    torch.manual_seed(0)
    slow = model.generate(torch.full((4000, 1), 2), 1)[:, 1]
    fast = torch.tensor([next(tokens(model, [2], seed=seed)) for seed in range(4000)])
    for drawn in (slow, fast):
        shares = torch.bincount(drawn, minlength=5) / 4000
        torch.testing.assert_close(shares, expected.detach(), rtol=0, atol=0.04)


logit_lists = st.lists(st.floats(-20, 20), min_size=2, max_size=30)


@given(logits=logit_lists, k=st.integers(1, 30))
@settings(deadline=None)
def test_top_k_keeps_the_k_likeliest(logits: list[float], k: int) -> None:
    p = probabilities(logits, SamplingConfig(top_k=k))
    assert p.sum() == pytest.approx(1)
    kept = (p > 0).sum()
    assert kept <= min(k, len(logits))
    whole = probabilities(logits, SamplingConfig())
    assert whole[p > 0].min() >= whole[p == 0].max() if (p == 0).any() else kept == len(logits)


@given(logits=logit_lists, share=st.floats(0.05, 0.99))
@settings(deadline=None)
def test_top_p_keeps_the_fewest_that_reach_p(logits: list[float], share: float) -> None:
    whole = probabilities(logits, SamplingConfig())
    p = probabilities(logits, SamplingConfig(top_p=share))
    mass = whole[p > 0].sum()
    assert mass >= share - 1e-9
    assert mass - whole[p > 0].min() <= share + 1e-9


@given(logits=logit_lists, share=st.floats(0, 1e-300, exclude_min=True))
@settings(deadline=None)
def test_the_least_top_p_keeps_the_likeliest(logits: list[float], share: float) -> None:
    p = probabilities(logits, SamplingConfig(top_p=share, top_k=3))
    assert (p > 0).sum() == 1
    assert p[np.argmax(probabilities(logits, SamplingConfig()))] == 1


@given(
    logits=logit_lists,
    penalty=st.sampled_from([5e-324, 1e-310, 1000.0]),
    temperature=st.sampled_from([5e-324, 1.0, 1000.0]),
)
@settings(deadline=None)
def test_extreme_settings_leave_a_distribution(
    logits: list[float], penalty: float, temperature: float
) -> None:
    sampling = SamplingConfig(repetition_penalty=penalty, temperature=temperature, top_p=0.5)
    p = probabilities(logits, sampling, [0])
    assert p.sum() == pytest.approx(1)


@given(logits=logit_lists, floor=st.floats(0, 1))
@settings(deadline=None)
def test_min_p_drops_what_is_far_below_the_likeliest(logits: list[float], floor: float) -> None:
    whole = probabilities(logits, SamplingConfig())
    p = probabilities(logits, SamplingConfig(min_p=floor))
    # Asked within rounding: the two were divided by their sums at different moments.
    assert (whole[p > 0] >= floor * whole.max() * (1 - 1e-9)).all()
    assert (whole[p == 0] <= floor * whole.max() * (1 + 1e-9)).all()


@given(logits=logit_lists, temperature=st.floats(0.1, 10))
@settings(deadline=None)
def test_probabilities_are_torchs_softmax(logits: list[float], temperature: float) -> None:
    expected = torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, dim=-1)
    ours = probabilities(logits, SamplingConfig(temperature=temperature))
    torch.testing.assert_close(torch.from_numpy(ours), expected)


def test_temperature_zero_is_the_likeliest_and_temperature_flattens() -> None:
    logits = [1.0, 3.0, 2.0]
    assert probabilities(logits, GREEDY).tolist() == [0, 1, 0]
    cold, plain, warm = (
        probabilities(logits, SamplingConfig(temperature=t)).max() for t in (0.5, 1.0, 2.0)
    )
    assert cold > plain > warm
    assert probabilities(logits, SamplingConfig(temperature=1e-300)).tolist() == [0, 1, 0]


def test_repetition_penalty_makes_what_was_said_less_likely() -> None:
    logits = [2.0, -1.0, 1.0]
    plain = probabilities(logits, SamplingConfig())
    shy = probabilities(logits, SamplingConfig(repetition_penalty=1.5), context=[0, 1, 0])
    assert shy[0] < plain[0]
    assert shy[1] / shy[2] < plain[1] / plain[2]


def test_drawing_never_takes_what_has_no_probability() -> None:
    highest = np.nextafter(1.0, 0.0)
    assert draw(np.array([[0.0, 0.3, 0.0, 0.7, 0.0]]), [highest]) == [3]
    assert draw(np.full((2, 1000), 1e-3), [highest, 0.0]) == [999, 0]
    with pytest.raises(CheckpointError, match="not numbers"):
        draw(np.array([[1.0, 0.0], [np.nan, 0.0]]), [highest, highest])


@given(
    logits=st.lists(st.tuples(*[st.integers(-2, 2)] * 6), min_size=1, max_size=3),
    tops=st.lists(st.integers(0, 8), min_size=3, max_size=3),
)
@settings(deadline=None)
def test_log_probabilities_come_in_order(logits: list[list[float]], tops: list[int]) -> None:
    tokens = [1] * len(logits)
    for row, top, found in zip(
        logits, tops, log_probs(logits, tokens, tops[: len(logits)]), strict=False
    ):
        expected = np.log(probabilities(row, SamplingConfig()))
        assert found.token == pytest.approx(expected[1])
        order = np.argsort(-np.array(row), kind="stable")[:top].tolist()
        assert [token for token, _ in found.top] == order
        assert [p for _, p in found.top] == pytest.approx(expected[order].tolist())


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=10),
)
def test_stop_strings_are_found_wherever_the_pieces_break(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    # Whichever stop string is completed first ends the text, at its beginning.
    done = [text.find(stop) + len(stop) for stop in stops if stop in text]
    written = "".join(until(pieces, stops))
    assert text.startswith(written)
    if not ends:
        assert written == text
    else:
        assert len(written) in ends
        assert len(written) <= min(done)


def test_text_flows_as_soon_as_it_is_certain() -> None:
    pieces = ["he", "llo EN", "X EN", "D more", "and more"]
    assert until(pieces, ["END"]) == ["he", "llo ", "ENX ", "", "", ""]
    assert until(pieces[:2], ["END"]) == ["he", "llo ", "EN"]


@given(st.text(max_size=20))
def test_bytes_become_characters_when_whole(text: str) -> None:
    tokenizer = hb.ByteTokenizer()
    spelled = spell(tokenizer.encode(text), tokenizer)
    assert spelled == text
    assert "\ufffd" not in spelled or "\ufffd" in text
    cut = tokenizer.encode(text + "한")[:-1]
    assert spell(cut, tokenizer) == text


def test_a_prompt_outside_the_vocabulary_is_refused() -> None:
    tokenizer = hb.CharTokenizer.from_text("abcdefghijk")
    with pytest.raises(UnknownCharacterError, match="SNOWMAN"):
        engine(tokenizer).generate("abc☃")


def test_an_empty_prompt_goes_on_from_a_line_end() -> None:
    tokenizer = hb.CharTokenizer.from_text("abcdefghij\n")
    assert start_token(tokenizer) == tokenizer.stoi["\n"]
    assert start_token(hb.CharTokenizer.from_text("xyz")) == 0
    text = engine(tokenizer).generate(max_new_tokens=20, seed=3)
    assert text == engine(tokenizer).generate("\n", max_new_tokens=20, seed=3)
    assert len(text) == 20


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_texts_generated_together_are_those_generated_alone(rows: int) -> None:
    tokenizer = hb.CharTokenizer.from_text("abcdefghijk")
    settings = {"max_new_tokens": 50, "stop": ["ab", "k"]}
    alone = [engine(tokenizer).generate("abc", seed=seed, **settings) for seed in range(6)]
    assert len(set(map(len, alone))) > 1
    together = engine(tokenizer, rows)
    streams = together.streams("abc", seeds=range(6), **settings)
    # In turns, so that they end at different times.
    texts = [""] * 6
    while any(not stream.finished for stream in streams):
        for number, stream in enumerate(streams):
            texts[number] += next(stream, "")
    assert [text + stream.take() for text, stream in zip(texts, streams, strict=True)] == alone
    assert ["".join(stream) for stream in together.streams("abc", seeds=range(6), **settings)] == (
        alone
    )


def test_a_batch_gives_each_prompt_the_text_it_gets_alone() -> None:
    tokenizer = hb.CharTokenizer.from_text("abcdefghijk")
    prompts = ["abc", "", "k" * 40, "ab", "fghij" * 5]
    settings = {"max_new_tokens": 30, "seed": 2, "temperature": 0.7, "stop": ["e"]}
    alone = [engine(tokenizer).generate(prompt, **settings) for prompt in prompts]
    assert engine(tokenizer, rows=2).batch(prompts, **settings) == alone


class Counting:
    """A decoder that counts the rows it reads, and checks that they follow what it has read."""

    context_size = 8
    vocab_size = 3

    def __init__(self, rows: int = 2) -> None:
        self.rows = rows
        self.rows_read = 0
        self.texts: dict[int, list[int]] = {}

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> np.ndarray:
        self.rows_read += len(rows)
        assert len(set(rows)) == len(rows)
        for new, row, start in zip(tokens, rows, starts, strict=True):
            text = self.texts.setdefault(row, [])
            assert 0 <= row < self.rows
            assert 0 <= start <= len(text)
            text[start:] = new
            assert len(new) > 0
            assert len(text) <= self.context_size
        return np.zeros((len(rows), self.vocab_size), np.float32)

    def copy(self, source: int, row: int, length: int) -> None:
        assert length <= len(self.texts[source])
        self.texts[row] = self.texts[source][:length]


def test_a_text_no_longer_wanted_takes_no_more_reading() -> None:
    decoder = Counting()
    abc = Engine(decoder, hb.CharTokenizer.from_text("abc"))
    first, second = abc.streams(max_new_tokens=10, seeds=(0, 1))
    next(first)
    first.close()
    assert len("".join(second)) == 10
    assert decoder.rows_read == 2 + 9
    dropped = abc.stream(max_new_tokens=10)
    next(dropped)
    del dropped
    assert len(abc.generate(max_new_tokens=10)) == 10
    assert decoder.rows_read == 2 + 9 + 1 + 10 + 1, "it is noticed one step later"


def test_a_text_stops_being_generated_at_its_stop_string() -> None:
    decoder = Counting()
    abc = Engine(decoder, hb.CharTokenizer.from_text("abc"))
    first, second = abc.streams(max_new_tokens=50, seeds=(0, 1), stop=["b"])
    lengths = [len("".join(text)) for text in (first, second)]
    assert max(lengths) < 49
    assert decoder.rows_read == sum(lengths) + 2


def test_the_first_text_comes_before_the_others_are_done() -> None:
    decoder = Counting()
    first, second = Engine(decoder, hb.CharTokenizer.from_text("abc")).streams(
        max_new_tokens=20, seeds=(0, 1)
    )
    assert len(next(first)) == 1
    assert decoder.rows_read == 2
    assert len("".join(first)) == 19
    assert len(next(second)) == 20, "all there is of it by then"


def test_no_new_tokens_is_no_text_and_no_reading() -> None:
    decoder = Counting()
    assert Engine(decoder, hb.CharTokenizer.from_text("abc")).generate(max_new_tokens=0) == ""
    assert decoder.rows_read == 0


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_generations_join_wait_and_leave_at_any_step(data: st.DataObject) -> None:
    """Whatever the others do, each draws what it draws alone."""
    batch = Batch(Counting(rows=data.draw(st.integers(1, 3))))
    prompts = st.lists(st.integers(0, 2), min_size=1, max_size=20)
    asked: dict[int, tuple[list[int], int, int]] = {}
    found: dict[int, list[int]] = {}
    removed: set[int] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            prompt, seed, limit = data.draw(
                st.tuples(prompts, st.integers(0, 5), st.integers(0, 30))
            )
            number = batch.add(prompt, seed=seed, max_new_tokens=limit)
            asked[number], found[number] = (prompt, seed, limit), []
        if asked and data.draw(st.booleans()):
            number = data.draw(st.sampled_from(sorted(asked)))
            batch.remove(number)
            removed.add(number)
            assert number not in batch
        if len(batch):
            for number, token in batch.step().items():
                found[number].append(token)
    while len(batch):
        for number, token in batch.step().items():
            found[number].append(token)
    for number, (prompt, seed, limit) in asked.items():
        alone = list(itertools.islice(tokens(Counting(), prompt, seed=seed), limit))
        assert found[number] == (alone[: len(found[number])] if number in removed else alone)
