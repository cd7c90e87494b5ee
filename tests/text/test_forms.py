"""Line ends and Unicode forms: set, set aside, and in the form of a model's alphabet."""

import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.cli.prompt import piped, typed
from hornbook.config import DataConfig
from hornbook.errors import ConfigError, DataError, UnknownCharacterError
from hornbook.ngram.suffix_array import SuffixArray
from hornbook.page.facts import facts
from hornbook.page.kept import Kept
from hornbook.runs.engine import open_engine
from hornbook.runs.folder import open_run, run_tokenizer
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import FormedCorpus, formed, read_text
from hornbook.text.forms import REMARKED_CHARACTERS, reformed, remarks, unified
from hornbook.text.tokenizer import ByteTokenizer, CharTokenizer

# Characters that compose with neighbours, that only decompose, that reorder; and line ends.
PIECES = "e\u0301\u0327é a\r\n각가ᄀ\u1161\u11a8\u212b\u0958\u3099かx\u0b47\u0b3e"
texts = st.text(st.sampled_from(PIECES), max_size=12)
VERSES = "".join(
    f"{'Où est le café de Zoë' if n % 3 else '나는 바다를 보았다'}, {n * 7919 % 101} fois?\n"
    for n in range(400)
)
DECOMPOSED = unicodedata.normalize("NFD", VERSES)


def plain(text: str, form: str = "NFC") -> str:
    return unicodedata.normalize(form, text.replace("\r\n", "\n").replace("\r", "\n"))


@settings(deadline=None)
@given(texts, texts, st.sampled_from(["nfc", "nfd"]))
def test_a_text_in_chunks_takes_the_form_of_the_whole(one: str, other: str, form: str) -> None:
    chunks = [part for part in (one, other) if part]
    pieces = list(reformed(chunks, newlines="lf", normalize=form))
    assert "".join(pieces) == plain(one + other, form.upper())
    assert all(pieces)
    assert "".join(reformed(chunks, newlines="keep", normalize="none")) == one + other


@settings(deadline=None)
@given(texts)
def test_a_unified_text_knows_where_its_characters_stood(text: str) -> None:
    found, offsets = unified(text)
    assert found == plain(text)
    if offsets is None:
        assert found == text
        return
    assert len(offsets) == len(found) + 1
    assert offsets[-1] == len(text)
    assert (np.diff(offsets) >= 0).all()
    assert offsets[0] == 0
    for character, start in zip(found, offsets, strict=False):
        if character in " a각\n":
            assert plain(text[start:])[0] == character


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo\n", []),
        ("one\r\ntwo\r\n", ["2 CRLF"]),
        ("one\rtwo\r", ["2 CR"]),
        ("one\r\ntwo\nthree\r\r", ["1 LF, 1 CRLF, 2 CR"]),
        ("caf\u00e9, Zo\u00eb, 각", []),
        ("cafe\u0301 cafe\u0301", []),
        ("caf\u00e9 cafe\u0301", ["U+0065 + U+0301 for 'é'"]),
        ("각 \u1100\u1161\u11a8\r", ["1 CR", "U+1100 + U+1161 + U+11A8 for '각'"]),
        # Å here has another code point than Å, and nothing is decomposed.
        ("\u00c5 \u212b", []),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_mixture_of_forms_and_line_ends_is_remarked(
    text: str, expected: list[str], size: int
) -> None:
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    if size == 1:  # a chunk holds no whole cluster then: chunks have a megabyte
        expected = [each for each in expected if "U+" not in each]
    found = remarks(chunks, newlines="keep", normalize="none")
    assert len(found) == len(expected)
    for remark, part in zip(found, expected, strict=True):
        assert part in remark
    assert remarks(chunks, newlines="lf", normalize="nfc") == []


def test_only_the_beginning_of_a_large_text_is_looked_at() -> None:
    def chunks():
        for _ in range(REMARKED_CHARACTERS // 10**7 + 1):
            yield "a" * 10**7
        raise AssertionError

    assert remarks(chunks(), newlines="keep", normalize="none") == []


def test_a_corpus_takes_the_form_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    book = tmp_path / "book"
    book.mkdir()
    for name, text in (("a", "cafe\u0301\r\nun\r"), ("b", "deux\rtrois"), ("c", "\u0301quatre")):
        (book / f"{name}.txt").write_bytes(text.encode())
    raw = read_corpus(book)
    assert formed(raw, DataConfig(corpus=str(book))) is raw
    config = DataConfig(corpus=str(book), newlines="lf", normalize="nfc")
    corpus = read_text(config)
    assert corpus.text == "café\nun\ndeux\ntrois\n\u0301quatre"
    assert corpus.characters == len(corpus.text)
    assert corpus.files() == [(0, "a.txt"), (8, "b.txt"), (19, "c.txt")]
    other = tmp_path / "other.txt"
    other.write_text(corpus.text, encoding="utf-8", newline="")
    assert corpus.sha256 == read_corpus(other).sha256
    assert isinstance(corpus, FormedCorpus)
    assert formed(corpus, config) is corpus


# What meets an alphabet


@pytest.mark.parametrize("policy", ["error", "skip", "replace"])
def test_a_text_takes_the_form_that_the_alphabet_has(policy: str) -> None:
    composed, apart = CharTokenizer(VERSES), CharTokenizer(DECOMPOSED)
    assert composed.fit(DECOMPOSED, policy) == (VERSES, "the text was composed (NFC)")
    assert apart.fit(VERSES, policy) == (DECOMPOSED, "the text was decomposed (NFD)")
    for tokenizer, own in ((composed, VERSES), (apart, DECOMPOSED)):
        assert tokenizer.fit(own, policy) == (own, "")
    both = CharTokenizer("éñn\u0301\u0303")
    assert both.fit("é\u0301ñn\u0303", policy) == ("é\u0301ñn\u0303", "")


def test_only_what_is_not_known_changes_its_form() -> None:
    # Composed é and decomposed ñ, as in a text that has both.
    tokenizer = CharTokenizer("én\u0303")
    assert tokenizer.fit("e\u0301ñé")[0] == "én\u0303é"


@pytest.mark.parametrize(
    ("alphabet", "text", "fitted"),
    [
        ("ab\n", "a\r\nb\rb\n", "a\nb\nb\n"),
        ("ab\r", "a\r\nb\rb\n", "a\rb\rb\r"),
        ("ab\r\n", "a\r\nb\rb\n", "a\r\nb\rb\n"),
        ("ab\n", "\ufeffab", "ab"),
    ],
)
def test_line_ends_and_byte_order_marks_meet_the_alphabet(
    alphabet: str, text: str, fitted: str
) -> None:
    found, note = CharTokenizer(alphabet).fit(text)
    assert found == fitted
    assert bool(note) == (fitted != text)


def test_the_place_of_an_unknown_character_is_that_of_the_text_given() -> None:
    with pytest.raises(UnknownCharacterError, match=r"SNOWMAN.*character 8 of the text, on line 2"):
        CharTokenizer("abcé\n").fit("be\u0301\r\nab☃")


# Copies


@pytest.mark.parametrize("training", [VERSES, DECOMPOSED, VERSES.replace("\n", "\r\n")])
@pytest.mark.parametrize(
    "copy", [VERSES, DECOMPOSED, VERSES.replace("\n", "\r\n"), DECOMPOSED.replace("\n", "\r")]
)
def test_a_copy_is_a_copy_in_any_form(tmp_path: Path, training: str, copy: str) -> None:
    SuffixArray.build(training).save(tmp_path / "copies")
    index = SuffixArray.open(tmp_path / "copies", training)
    text = f"§{copy[20:700]}§"
    lengths = index.match_lengths(text)
    # The ends of the copy may be cut inside a cluster.
    assert (lengths[3:-4] >= 670).all()
    assert lengths[0] == lengths[-1] == 0
    found = index.matches(text, at_least=50)[0]
    there = training[found.position : found.position + found.training_length]
    assert plain(text[found.start : found.end]) == plain(there)
    assert found.start in (1, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N-grams of a decomposed text with CRLF line ends."""
    place = tmp_path_factory.mktemp("forms")
    (place / "verses.txt").write_bytes(DECOMPOSED.replace("\n", "\r\n").encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        config = hb.preset("ngram").override(corpus=str(place / "verses.txt"), order=4)
        list(hb.train(config, out=place / "run"))
    return place / "run"


def test_eval_and_trace_of_another_form_are_those_of_the_same_text(run: Path) -> None:
    own = DECOMPOSED.replace("\n", "\r\n")
    trained = hb.load(run)
    expected = trained.evaluate_text(own).nats_per_char
    assert trained.evaluate_text(unicodedata.normalize("NFC", own)).nats_per_char == expected
    copied = VERSES[100:900]
    found = hb.trace(run, copied)
    assert found.shares.in_runs[100] > 0.99
    passage = found.passages()[0]
    assert copied[passage.match.start : passage.match.end] == passage.text
    assert passage.line == 1 + VERSES.count("\n", 0, 100 + passage.match.start)
    given = own[: passage.match.position].count("\r\n") + 1
    assert passage.line == given
    # What follows the copy in the training text begins where the copy ends there.
    assert plain(passage.after).startswith(VERSES[100 + passage.match.end :][:10])


def test_a_prompt_in_another_form_is_the_same_prompt(run: Path) -> None:
    trained = hb.load(run)
    expected = trained.generate(unicodedata.normalize("NFD", "café"), max_new_tokens=20)
    assert trained.generate("café", max_new_tokens=20) == expected
    assert trained.generate("\ufeffcafé", max_new_tokens=20) == expected


def test_a_stop_string_ends_before_the_line_end_of_the_text(run: Path) -> None:
    text = hb.load(run).generate("Où", max_new_tokens=200, stop=["\n"])
    assert 0 < len(text) < 200
    assert "\r" not in text


# The command line


def test_sample_understands_or_explains_a_prompt(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prompt_of(*arguments: str, stdin: bytes = b"") -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        words = ["sample", str(run), "--max-new-tokens", "3", "--json", *arguments]
        assert hornbook_command(words) == 0
        return json.loads(capsys.readouterr().out)["prompt"]

    expected = unicodedata.normalize("NFD", "café\r\nOù")
    assert prompt_of("--prompt", "café\r\nOù") == expected
    assert prompt_of("--prompt", r"caf\u00e9\r\nOù", "--escapes") == expected
    assert prompt_of("--prompt", "-", stdin="\ufeffcafé\r\nOù".encode()) == expected
    assert prompt_of("--prompt", "-", stdin="\ufeffcafé\r\nOù".encode("utf-16-le")) == expected
    latin = "café\r\nOù".encode("latin-1")
    assert prompt_of("--prompt", "-", "--encoding", "latin-1", stdin=latin) == expected
    assert prompt_of("--prompt", os.fsdecode(latin), "--encoding", "latin-1") == expected
    assert hornbook_command(["sample", str(run), "--prompt", os.fsdecode(latin)]) == 1
    message = capsys.readouterr().err
    assert "--prompt is not UTF-8 text: byte 0xe9 at offset 3" in message
    assert "surrogate" not in message
    assert hornbook_command(["sample", str(run), "--prompt", r"Où\nOù"]) == 1
    assert "--escapes reads \\n as one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "meant"), [(r"a\nb", "a\nb"), (r"\\n\t", "\\n\t"), (r"\x41\uac00\U0001f600", "A가😀")]
)
def test_escapes_are_read_as_their_characters(text: str, meant: str) -> None:
    assert typed("--prompt", text, escapes=True, encoding=None) == meant


@pytest.mark.parametrize("text", [r"\q", "\\", r"\ud800", r"\U00110000", r"\x4"])
def test_an_escape_that_is_no_character_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--escapes"):
        typed("--prompt", text, escapes=True, encoding=None)


def test_half_a_surrogate_pair_that_is_no_byte_is_refused() -> None:
    with pytest.raises(DataError, match="half a surrogate pair"):
        typed("--prompt", "\ud83d", escapes=False, encoding=None)


def test_a_terminal_gets_line_feeds_and_a_file_what_was_generated(run: Path) -> None:
    words = ["sample", str(run), "--prompt", "Où", "--max-new-tokens", "150"]
    command = [sys.executable, "-m", "hornbook", *words]
    written = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert written.count(b"\r\n") > 1
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=follower) as process:
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 4096):
                shown += data
        except OSError:  # Linux: nobody has the other end open any more
            pass
        process.wait(timeout=60)
    # The terminal itself puts a CR before each LF.
    assert b"\r\r" not in shown
    assert shown.replace(b"\r\n", b"\n") == written.replace(b"\r\n", b"\n")


def test_train_remarks_on_line_ends_and_changes_them_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    text = tmp_path / "verses.txt"
    mixed = VERSES[:9000] + unicodedata.normalize("NFD", VERSES[9000:])
    text.write_bytes(mixed.replace("\n", "\r\n").encode())
    words = ["train", str(text), "--model", "ngram", "--order", "3", "--dry-run"]
    assert hornbook_command(words) == 0
    message = capsys.readouterr().err
    assert "400 CRLF; the model learns them as they are, and --newlines lf" in message
    assert "--normalize nfc" in message
    words = [*words[:-1], "--newlines", "lf", "--normalize", "nfc", "--out", str(tmp_path / "run")]
    assert hornbook_command([*words, "--quiet"]) == 0
    assert "CRLF" not in capsys.readouterr().err
    trained = hb.load(tmp_path / "run")
    assert trained.tokenizer == CharTokenizer(VERSES)
    assert trained.evaluate().positions > 0
    assert hb.trace(tmp_path / "run", DECOMPOSED[:500]).shares.in_runs[100] == 1


def test_a_model_of_bytes_reads_prompts_in_the_form_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "verses.txt").write_text(DECOMPOSED, encoding="utf-8")
    config = hb.preset("ngram").override(
        corpus=str(tmp_path / "verses.txt"), order=4, tokenizer="byte", normalize="nfc"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
        list(hb.train(config, out=tmp_path / "run"))
    trained = hb.load(tmp_path / "run")
    assert trained.tokenizer == ByteTokenizer()
    one, other = (
        trained.generate(unicodedata.normalize(form, "café"), max_new_tokens=20)
        for form in ("NFC", "NFD")
    )
    assert one == other


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_model_of_bytes_reads_the_line_ends_of_its_text(
    tokenizer: str,
    ending: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "verses.txt").write_bytes(VERSES.replace("\n", ending).encode())
    config = hb.preset("ngram").override(
        corpus=str(tmp_path / "verses.txt"), order=4, tokenizer=tokenizer, bpe_vocab_size=300
    )
    list(hb.train(config, out=tmp_path / "run"))
    trained = hb.load(tmp_path / "run")
    foreign = "Où est\r\nle café\rde Zoë"
    meant = foreign if ending == "\r\n" else foreign.replace("\r\n", "\n").replace("\r", "\n")
    for engine in (trained.engine(), open_engine(tmp_path / "run")):  # Python's, the server's
        assert engine.tokenizer.decode(engine.encode(foreign)) == meant
    assert trained.tokenizer.decode(trained.look(foreign).ids) == meant
    loss = trained.evaluate_text(foreign * 9).nats_per_char
    assert (loss == trained.evaluate_text(foreign.replace("\r\n", "\n") * 9).nats_per_char) == (
        ending == "\n"
    )
    about = facts(
        trained, Kept("float32", 0, 0, exact_n_grams=True, network_only=False), trained.dataset()
    )
    assert about["tokenizer"]["newline"] == ending
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(foreign.encode())))
    for prompt in (foreign, "-"):
        words = ["sample", str(tmp_path / "run"), "--max-new-tokens", "3", "--json"]
        assert hornbook_command([*words, "--prompt", prompt]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["prompt"] == meant
        assert ("line ends were changed" in printed.err) == (ending == "\n")
    # A run that has not recorded its text's line ends: only standard input is changed.
    folder = open_run(tmp_path / "run")
    recorded = folder.environment_facts()
    assert recorded.pop("text_has_cr") == (ending == "\r\n")
    folder.replace({folder.environment: json.dumps(recorded).encode()})
    assert run_tokenizer(folder).fit(foreign)[0] == foreign
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(foreign.encode())))
    assert "\r" not in piped(run_tokenizer(folder), None)
