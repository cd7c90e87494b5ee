"""The context mixer in C, against its plain form, and what it promises by itself."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import CheckpointError
from hornbook.kernels import mixer as kernels
from hornbook.kernels import processor
from hornbook.kernels.library import load_compiled
from hornbook.kernels.recipe import HERE, MIXER, TARGETS, Target, compiler
from hornbook.models.code_tree import DEEPEST, CodeTree
from hornbook.models.mixer import Mixer
from hornbook.models.mixer_reference import PlainReader
from hornbook.text.tokenizer.characters import CharTokenizer

CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
AARCH64 = next(each for each in TARGETS if each.name == "aarch64")
ARM = Path(__file__).parent / "mixer_arm.c"
VERSE = (
    "The cat sat on the mat;\n  the Cat's hat was flat.\nA rat ran at the cat, and that was that.\n"
)


def learned(text: str, cut: int, logits_seed: int | None = None) -> tuple[Mixer, np.ndarray]:
    """A mixer of the text up to a place, and the tokens after it."""
    tokenizer = CharTokenizer.from_text(text)
    tokens = tokenizer.encode_array(text).astype(np.int32)
    mixer = Mixer.begin(tokenizer, tokens[:cut])
    reader = mixer.learner()
    if logits_seed is None:
        reader.read(tokens[:cut])
    else:
        reader.read(tokens[: cut // 2])
        mixer.join_network()
        reader.read(tokens[cut // 2 : cut], logits(tokens[cut // 2 : cut], mixer, logits_seed))
    return replace(mixer, text=tokens[:cut].copy()), tokens[cut:]


def logits(tokens: np.ndarray, mixer: Mixer, seed: int) -> np.ndarray:
    """A network's logits that know a little of each token."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(len(tokens), mixer.vocab_size)).astype(np.float32)
    found[np.arange(len(tokens)), tokens] += 2
    return found


@pytest.mark.parametrize("with_network", [False, True])
def test_c_and_plain_python_say_the_same(with_network: bool) -> None:
    mixer, rest = learned(VERSE * 12, 900, 7 if with_network else None)
    rest = rest[:150]
    network = logits(rest, mixer, 8) if with_network else None
    assert np.allclose(
        mixer.reader().read(rest, network), PlainReader(mixer).read(rest, network), atol=2e-4
    )


@pytest.mark.parametrize("target", processor.runnable(), ids=lambda each: each.name)
def test_every_kind_of_processor_computes_the_same(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = load_compiled(tmp_path, compiler(), MIXER, target)
    monkeypatch.setattr(kernels, "shared_library", lambda _: library)
    kernels.mixer_library.cache_clear()
    try:
        test_c_and_plain_python_say_the_same(with_network=True)
    finally:
        kernels.mixer_library.cache_clear()


@pytest.mark.skipif(CROSS is None or EMULATOR is None, reason="needs Arm's gcc and qemu-user")
def test_arm_computes_the_same(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.from_text(VERSE)
    tokens = tokenizer.encode_array(VERSE * 8).astype(np.int32)
    mixer = Mixer.begin(tokenizer, tokens)
    network = logits(tokens, mixer, 3)
    tree, sizes = mixer.tree, (mixer.vocab_size, mixer.line_bits, mixer.counter_bits)
    arrays = (
        np.array([*sizes, *mixer.shortest, len(tokens)], np.int32), tree.child, tree.bucket,
        tree.slot, tree.parent, tree.depth, tree.first, np.array([len(tree.path)], np.int32),
        tree.path, mixer.folded, mixer.kind, tokens, network,
    )  # fmt: skip
    (tmp_path / "in").write_bytes(b"".join(each.tobytes() for each in arrays))
    build = [CROSS, "-static", *AARCH64.flags_for(MIXER), f"-I{HERE}", ARM, "-o", "on-arm", "-lm"]
    build = [each for each in build if each not in ("-shared", "-fPIC")]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(
        [EMULATOR, "-cpu", "max", "./on-arm", "in"], cwd=tmp_path, capture_output=True, check=True
    )
    found = np.frombuffer(done.stdout, np.float64)
    np.testing.assert_allclose(found, mixer.learner().read(tokens, network), atol=2e-4)


@settings(max_examples=15, deadline=None)
@given(
    text=st.text(st.sampled_from("ab \n가나다'X0"), min_size=2, max_size=120),
    cut=st.integers(0, 100),
    seed=st.integers(0, 9),
)
def test_probabilities_sum_to_one_and_are_those_that_reading_measures(
    text: str, cut: int, seed: int
) -> None:
    mixer, rest = learned(text, min(cut, len(text) - 1), seed)
    network, reader = logits(rest, mixer, seed), mixer.reader()
    nats = mixer.reader().read(rest, network)
    for t in range(len(rest)):
        log_p_V = reader.log_probs(network[t]).astype(np.float64)
        assert abs(np.exp(log_p_V).sum() - 1) < 1e-6
        assert abs(log_p_V[rest[t]] + nats[t]) < 1e-5
        reader.read(rest[t : t + 1], network[t : t + 1])


def test_a_reader_forgets_and_leaves_the_mixer_as_it_was() -> None:
    mixer, rest = learned(VERSE * 2, 60)
    before = mixer.lines.tobytes(), mixer.weights.tobytes()
    reader = mixer.reader()
    first = reader.read(rest)
    assert reader.read(rest).mean() < first.mean(), "what it has read helps"
    reader.reset()
    assert (reader.read(rest) == first).all()
    pieces = mixer.reader()
    in_pieces = [pieces.read(piece) for piece in np.array_split(rest, 7)]
    assert (np.concatenate(in_pieces) == first).all()
    assert (mixer.lines.tobytes(), mixer.weights.tobytes()) == before


def test_a_copy_goes_on_where_the_text_ended() -> None:
    tokenizer = CharTokenizer.from_text(VERSE)
    tokens = tokenizer.encode_array(VERSE * 12).astype(np.int32)
    mixer = Mixer.begin(tokenizer, tokens[:900])
    straight_on = mixer.learner()
    straight_on.read(tokens[:900])
    stopped = replace(mixer, text=tokens[:900]).copy().learner()
    # Only a match in progress is lost, and found again.
    first, *rest = zip(straight_on.read(tokens[900:]), stopped.read(tokens[900:]), strict=True)
    assert max(abs(a - b) for a, b in rest) < 0.01, first


def test_it_learns_more_than_single_characters() -> None:
    mixer, rest = learned(VERSE * 12, 900)
    counts = np.bincount(rest, minlength=mixer.vocab_size) / len(rest)
    entropy = -np.sum(counts[counts > 0] * np.log(counts[counts > 0]))
    assert mixer.reader().read(rest).mean() < entropy / 4


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    mixer, _ = learned(VERSE, 90)
    for bad in (-1, mixer.vocab_size):
        with pytest.raises(IndexError, match="expected tokens below"):
            mixer.reader().read(np.array([0, bad]))


def test_one_token_alone_is_certain() -> None:
    mixer, rest = learned("aaaaaaaa", 5)
    assert (mixer.reader().read(rest) == 0).all()
    assert mixer.reader().log_probs().tolist() == [0.0]


def test_arrays_that_are_no_mixer_are_refused() -> None:
    mixer, rest = learned(VERSE, 90)
    arrays = mixer.arrays()
    again = Mixer.from_arrays(arrays)
    assert (again.reader().read(rest) == mixer.reader().read(rest)).all()
    bad = {
        "lines": arrays["lines"][:-64],
        "weights": np.full_like(arrays["weights"], np.nan),
        "children": np.roll(arrays["children"], 1),
        "folded": arrays["folded"] + mixer.vocab_size,
        "kinds": arrays["kinds"] - 1,
        "text": np.full(4, mixer.vocab_size, np.int32).view(np.uint8),
        "sizes": arrays["sizes"] * 100,
    }
    for name, array in bad.items():
        with pytest.raises(CheckpointError, match="not a mixer"):
            Mixer.from_arrays({**arrays, name: array})
        with pytest.raises(CheckpointError, match="not a mixer"):
            Mixer.from_arrays({key: value for key, value in arrays.items() if key != name})


@given(
    spelled=st.lists(st.binary(max_size=3), min_size=1, max_size=300),
    seed=st.integers(0, 9),
    steep=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_a_code_tree_leads_to_each_token_once(spelled: list[bytes], seed: int, steep: bool) -> None:
    random, V = np.random.default_rng(seed), len(spelled)
    # Counts that double from token to token make the deepest tree.
    counts = 2 ** (np.arange(V) % 31) if steep else random.integers(0, 10**9, V)
    tree = CodeTree.of_tokens(counts, spelled)
    paths = [tuple(tree.path[a:b]) for a, b in zip(tree.first[:-1], tree.first[1:], strict=True)]
    assert len(set(paths)) == V
    assert sum(2.0 ** -len(path) for path in paths) == pytest.approx(1)
    assert max(map(len, paths)) <= DEEPEST


def test_similar_tokens_stand_together_and_frequent_ones_high() -> None:
    spelled = [bytes([each]) for each in b"abcdefghABCDEFGH ,.;"]
    counts = np.array([30, 5, 9, 9, 40, 6, 5, 5, *[8] * 8, 60, 9, 9, 4])
    tree = CodeTree.of_tokens(counts, spelled)
    path = {
        token: tuple(tree.path[a:b])
        for token, a, b in zip(spelled, tree.first[:-1], tree.first[1:], strict=True)
    }
    # All letters lie on one side of the root's decision, and small ones on one of a later one.
    assert len({path[bytes([each])][0] for each in b"abcdefghABCDEFGH"}) == 1
    assert len({path[bytes([each])][:2] for each in b"abcdefgh"}) == 1
    assert len(path[b" "]) < len(path[b"H"])
