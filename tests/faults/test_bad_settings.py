"""Bad settings: every field at its type's edges, in flags, variables and files; one clear line.

The fields and their bounds are read from the dataclasses themselves, so that a new field is
covered as soon as it is there. No text goes by the name NO_TEXT: a command that gets past the
settings ends with status 1 and that line, before anything is trained.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from commands import hornbook
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from hornbook.cli import run
from hornbook.config import FIELDS, MODELS, SECTIONS, Config, load_config, preset
from hornbook.errors import ConfigError

NO_TEXT = "no-such-text"
JUNK: list[Any] = [None, [], {}, [1], {"a": 1}, "", " ", "six", "\x1b[31m", "a\nb", True, 1.5]
JUNK += [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1, 2**64, 10**400, -1, 0, "1e999", "NaN"]


def hint_of(name: str) -> Any:
    return get_type_hints(SECTIONS[FIELDS[name]], include_extras=True)[name]


def bounds(hint: Any) -> Meta | None:
    """The limits that a number's type has."""
    found = [each for each in get_args(hint)[1:] if isinstance(each, Meta)]
    return found[0] if get_origin(hint) is Annotated and found else None


def literals(hint: Any) -> tuple[str, ...]:
    """The values that a type has, where those are all there are."""
    return get_args(hint) if get_origin(hint) is Literal else ()


def edges(name: str) -> Iterator[tuple[Any, bool]]:
    """Values at the edges of a field's type, each with whether it lies within."""
    hint = hint_of(name)
    optional = get_origin(hint) in (Union, UnionType) and str not in get_args(hint)
    if optional:
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) in (tuple, dict):  # of an imported model: read from its own files
        yield from ((wrong, False) for wrong in (0, True, "x", 1.5))
        return
    if name in ("n_kv_head", "head_width"):  # which must suit n_head, and be even
        yield from ((2, True), (0, False), ("x", False), (1.5, False))
        return
    if choices := tuple(MODELS) if name == "model" else literals(hint):
        yield from ((choice, True) for choice in choices)
        yield from ((wrong, False) for wrong in ("", choices[0].upper(), 0))
        return
    if hint is bool:
        yield from ((True, True), (False, True), ("yes", False), (2, False))
        return
    limits = bounds(hint)
    if limits is None:  # words: any will do here, and is judged when the text is read
        assert hint in (str, str | None), f"{name}: a type that this test does not know"
        yield from ((0, False), (True, False), (["a"], False))
        return
    if limits.pattern is not None:
        yield from (("", True), ("x", False), (0, False))
        return
    whole = get_args(hint)[0] is int

    def beside(value: Any, up: bool) -> Any:
        return value + (1 if up else -1) if whole else math.nextafter(value, math.inf * (up or -1))

    low = limits.ge if limits.ge is not None else limits.gt
    high = limits.le if limits.le is not None else limits.lt
    assert low is not None, f"{name} has no least value"
    assert high is not None, f"{name} has no greatest value"
    low, high = (int(low), int(high)) if whole else (float(low), float(high))
    yield low, limits.ge is not None
    yield high, limits.le is not None
    yield from ((beside(low, up=False), False), (beside(high, up=True), False))
    yield from ((beside(low, up=True), True), (beside(high, up=False), True))
    yield from ((wrong, False) for wrong in (math.nan, math.inf, -math.inf, 10**30, "x", ""))
    yield None, optional
    if whole:
        yield from ((low + 0.5, False), (True, False))


EDGES = [
    pytest.param(name, value, good, id=f"{name}={str(value)[:20]}")
    for name in FIELDS
    for value, good in edges(name)
]


def roomy(name: str) -> Config:
    """Settings with which a field's own edges are not at odds with another field."""
    if name in ("n_head", "n_embd"):
        return preset("bigram")  # its model has no heads
    return Config()


@pytest.mark.parametrize(("name", "value", "good"), EDGES)
def test_a_field_takes_what_its_type_says_and_names_what_it_refuses(
    name: str, value: Any, good: bool
) -> None:
    if good:
        section = getattr(roomy(name).override(**{name: value}), FIELDS[name])
        assert getattr(section, name) == value
    else:
        with pytest.raises(ConfigError) as raised:
            roomy(name).override(**{name: value})
        assert str(raised.value).startswith(f"{name} = ")
        assert len(str(raised.value).splitlines()) == 1


def spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing else may have been printed."""
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert "bug" not in said.err
    return said.err.removeprefix("hornbook: ")


@pytest.mark.parametrize("name", FIELDS)
def test_every_way_in_ends_alike(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same value by --set, by variable and by file: refused with 2, or taken by all."""
    rung = ["--model", "bigram"] if name in ("n_head", "n_embd") else []
    for value, good in edges(name):
        # In a shell all is text: "" and None are words of their own there, 0 is a name.
        if (
            value is None
            or isinstance(value, (list, dict))
            or name in ("corpus", "encoding", "field", "mix", "chat_template", "pretrained")
            # A run without a limit keeps 0 in its file; asked for, it is refused
            # (tests/config/test_config.py). LoRA's factors need a model to stand beside, and
            # conversations one to teach.
            or name in ("lora_rank", "conversations")
            or (name == "minutes" and value == 0)
        ):
            continue
        if name == "model" and rung:
            continue
        status = 1 if good else 2
        typed = spelt(value)
        assert run(["train", NO_TEXT, *rung, "--set", f"{name}={typed}"]) == status, value
        by_flag = told(capsys)
        monkeypatch.setenv(f"HORNBOOK_{name.upper()}", typed)
        assert run(["train", NO_TEXT, *rung]) == status, value
        by_variable = told(capsys)
        monkeypatch.delenv(f"HORNBOOK_{name.upper()}")
        assert by_flag == by_variable
        assert (NO_TEXT if good else f"{name} = ") in by_flag
    with (tmp_path / "my.toml").open("w", encoding="utf-8") as file:
        file.write(f"[{FIELDS[name]}]\n{name} = [1979-05-27]\n")
    assert run(["train", NO_TEXT, "--config", str(tmp_path / "my.toml")]) == 2
    assert f"my.toml: {name} = " in told(capsys)


@pytest.mark.parametrize("name", FIELDS)
def test_a_letter_too_few_is_told_the_name_that_was_meant(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typo = name[:-2] + name[-1]
    path = tmp_path / "my.toml"
    path.write_text(f"[{FIELDS[name]}]\n{typo} = 1\n", encoding="utf-8")
    ways = (["--set", f"{typo}=1"], ["--config", str(path)], [])
    for way in ways:
        if not way:
            monkeypatch.setenv(f"HORNBOOK_{typo.upper()}", "1")
        assert run(["train", NO_TEXT, *way]) == 2
        line = told(capsys)
        assert "unknown setting" in line
        assert f"did you mean {name}?" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", ""], "expected key=value"),
        (["--set", "n_layer"], "expected key=value"),
        (["--set", "=6"], "unknown setting ''"),
        (["--set", "n_layer="], "n_layer = ''"),
        (["--set", "n_layer=6=7"], "n_layer = '6=7'"),
        (["--set", "train.n_layer=6"], "did you mean n_layer?"),
        (["--set", "model.model.n_layer=6"], "did you mean n_layer?"),
        (["--set", "__class__=6"], "unknown setting"),
        (["--set", "n_layer=" + "9" * 5000], "n_layer = "),
        (["--set", "\x1b[31m=6"], "unknown setting '\\x1b[31m'"),
        (["--set", "n_layer=\x1b[31m"], "n_layer = '\\x1b[31m'"),
        (["--set", "n_embd=100", "--set", "n_head=3"], "a multiple of 6 does"),
        (["--model", "heads", "--set", "n_head=5"], "a multiple of 5 does"),
        (["--model", "gtp"], "did you mean gpt?"),
        (["--set", "model=gtp"], "did you mean gpt?"),
        (["--preset", "quik"], "expected one of"),
        (["--preset", ""], "expected one of"),
        (["--model", "bigram", "--set", "model=gpt"], "at odds"),
        (["--resume", "run", "--steps", "5"], "cannot be given"),
        (["--steps", "0"], "steps = 0"),
        (["--steps", "-1"], "steps = -1"),
        (["--steps", "1.5"], "1.5"),
        (["--steps", "9" * 50], "steps"),
        (["--seed", "-1"], "seed = -1"),
        (
            ["--tokenizer", "chars"],
            "expected one of char, byte, bpe, auto, pretrained; did you mean char?",
        ),
        (["--stpes", "5"], "--stpes"),
        (["--config", "gone.toml"], "gone.toml"),
        (["--config", "."], "Is a directory"),
        (["--config", "/dev/zero"], "no regular file"),
        (["--config", ""], ""),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", NO_TEXT, *arguments]) == 2
    assert named in told(capsys)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("n_layer = ", "not valid TOML"),
        ("n_layer 6", "not valid TOML"),
        ("n_layer = six", "not valid TOML"),
        ("n_layer = 6\nn_layer = 7", "not valid TOML"),
        ("n_layer = " + "9" * 5000, "not valid TOML"),
        ("a = " + "[" * 20_000, "nested too deep"),
        ("[modle]\nn_layer = 6", "did you mean model?"),
        ("[train]\nn_layer = 6", "did you mean n_layer?"),
        ("[optimiser]\nbeta1 = 0.9", "did you mean optimizer?"),
        ("train = 3", "unknown setting 'train'"),
        ("[[train]]\nsteps = 3", "unknown setting 'train'"),
        ("[train.deeper]\nsteps = 3", "unknown setting 'train.deeper'"),
        ("[train]\nsteps = {a = 1}", "steps = "),
        ("steps = 07:32:00", "steps = "),
        ("steps = nan", "steps = nan"),
        ("learning_rate = nan", "learning_rate = nan"),
        ("learning_rate = inf", "learning_rate = inf"),
        ("learning_rate = 1e999", "learning_rate = inf"),
        ("corpus = 3", "corpus = 3"),
        ("encoding = false", "encoding = False"),
        ("compile = true", "compile = True"),
        ('tie_embeddings = "true"', "tie_embeddings = 'true'"),
        ('"n_layer\\u001b" = 6', "unknown setting 'n_layer\\x1b'"),
        ("#" * 70_000, "too large"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    content: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.toml"
    path.write_text(content, encoding="utf-8")
    assert run(["train", NO_TEXT, "--config", str(path)]) == 2
    line = told(capsys)
    assert "my.toml" in line
    assert named in line


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.sampled_from(JUNK), max_size=4))
def test_any_values_are_settings_or_one_clear_line(values: dict[str, Any]) -> None:
    config, message = None, ""
    try:
        config = Config().override(**values)
    except ConfigError as error:
        message = str(error)
    if config is not None:
        assert config.override(**values) == config
    else:
        assert len(message.splitlines()) == 1
        assert any(name in message for name in values)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.binary())
def test_any_file_is_settings_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="replace"))
    message = str(path)
    try:
        load_config(path)
    except ConfigError as error:
        message = str(error)
    assert message.startswith(str(path))


def test_settings_survive_their_own_file(tmp_path: Path) -> None:
    for name, (value, good) in ((n, e) for n in FIELDS for e in edges(n)):
        if good:
            config = roomy(name).override(**{name: value})
            path = tmp_path / "my.toml"
            path.write_text(config.to_toml(), encoding="utf-8")
            assert load_config(path, preset("laptop")) == config, name


def test_real_processes_say_it_too(tmp_path: Path) -> None:
    for arguments, named in (
        (["--set", "n_layr=6"], "did you mean n_layer?"),
        (["--steps", "0"], ">= 1"),
    ):
        done = hornbook("train", NO_TEXT, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == b""
        assert named in done.stderr.decode()
        assert len(done.stderr.splitlines()) == 1
