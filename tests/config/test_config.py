"""Settings: checked, overridden in the right order, written and read back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.config import (
    FIELDS,
    SECTIONS,
    Config,
    Origin,
    Request,
    SamplingConfig,
    environment_settings,
    load_config,
    parse_assignments,
    preset,
    preset_names,
)
from hornbook.errors import ConfigError


def test_every_fields_name_is_its_own() -> None:
    assert len(FIELDS) == sum(len(dataclasses.fields(kind)) for kind in SECTIONS.values())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_survives_toml(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(preset(name).to_toml(), encoding="utf-8")
    assert load_config(path) == preset(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_layr": 3}, "unknown setting 'n_layr'; did you mean n_layer?"),
        ({"train.n_layer": 3}, "unknown setting 'train.n_layer'; did you mean n_layer?"),
        ({"zzz": 3}, "unknown setting 'zzz'; known: corpus,"),
        ({"n_layer": 0}, "n_layer = 0: Expected `int` >= 1"),
        ({"n_layer": 2.5}, "n_layer = 2.5: Expected `int`, got `float`"),
        ({"n_layer": True}, "n_layer = True: Expected `int`, got `bool`"),
        ({"n_layer": None}, "n_layer = None: Expected `int`, got `null`"),
        ({"dropout": 1.0}, "dropout = 1.0: Expected `float` < 1.0"),
        ({"dropout": float("nan")}, "dropout = nan: Expected `float` >= 0.0"),
        ({"learning_rate": -1}, "learning_rate = -1: Expected `float` >= 0.0"),
        ({"model": "gtp"}, "model = 'gtp': expected one of ngram, bigram, average, head, heads, "),
        ({"model": "gtp"}, "layernorm, gpt, gpt2; did you mean gpt?"),
        ({"tokenizer": "word"}, "tokenizer = 'word': expected one of char, byte, bpe"),
        (
            {"tokenizer": "bte"},
            "expected one of char, byte, bpe, auto, pretrained; did you mean byte?",
        ),
        ({"compile": True}, "compile = True: expected one of auto, on, off, c"),
        ({"with_counts": True, "model": "head"}, "with_counts = true joins n-grams to a gpt, but"),
        ({"model": "heads", "n_embd": 30}, "n_embd = 30 does not split into n_head = 4 heads; a"),
        ({"seed": -1}, "seed = -1: Expected `int` >= 0"),
        ({"seed": 2**70}, "seed = 1180591620717411303424: "),
        ({"n_embd": 100}, "n_embd = 100 does not split into n_head = 4 heads"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().override(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@given(
    name=st.sampled_from(sorted(FIELDS)),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.lists(st.integers()),
    ),
)
def test_any_value_is_taken_or_refused_in_one_line(name: str, value: object) -> None:
    try:
        config = Config().override(**{name: value})
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        kept = getattr(getattr(config, FIELDS[name]), name)
        assert kept == value
        assert Config().override(**{f"{FIELDS[name]}.{name}": kept}) == config


def test_text_from_a_shell_becomes_the_fields_type() -> None:
    config = Config().override_from_text(
        {"n_layer": "6", "dropout": "0.1", "tie_embeddings": "true", "model.n_embd": "64"}
    )
    model = config.model
    assert (model.n_layer, model.dropout, model.tie_embeddings, model.n_embd) == (6, 0.1, True, 64)
    with pytest.raises(ConfigError, match="n_layer = 'six'"):
        Config().override_from_text({"n_layer": "six"})


def test_assignments_need_an_equals_sign() -> None:
    assert parse_assignments(["n_layer = 6", "corpus=a=b"]) == {"n_layer": "6", "corpus": "a=b"}
    with pytest.raises(ConfigError, match="--set 'n_layer': expected key=value"):
        parse_assignments(["n_layer"])


def test_the_environment_names_settings_too() -> None:
    variables = {"HORNBOOK_N_LAYER": "6", "HORNBOOK_DATA_DIR": "/x", "PATH": "/bin"}
    assert environment_settings(variables) == {"n_layer": "6"}


def test_a_file_lies_over_the_preset_and_under_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("n_layer = 3\n[train]\nsteps = 7\n", encoding="utf-8")
    config = load_config(path, preset("quick")).override(steps=9)
    assert (config.model.n_layer, config.model.n_embd) == (3, preset("quick").model.n_embd)
    assert config.train.steps == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[model]\nn_layr = 3\n", "did you mean n_layer?"),
        (b"[modle]\nn_layer = 3\n", "unknown setting 'modle'"),
        (b"[model]\nsteps = 3\n", "unknown setting 'model.steps'; did you mean steps?"),
        (b"n_layer = \n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b'n_layer = "six"\n', "n_layer = 'six': Expected `int`, got `str`"),
    ],
)
def test_a_bad_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'huge'; expected one of laptop, quick"):
        preset("huge")


def test_sampling_settings_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"temperature = -1"):
        SamplingConfig(temperature=-1)
    with pytest.raises(ConfigError, match=r"top_p = 0"):
        SamplingConfig(top_p=0)


def test_a_request_remembers_where_each_value_came_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("n_layer = 4\n[train]\nsteps = 7\n", encoding="utf-8")
    request = Request().layer({"preset": {"n_embd": 64, "steps": 200}}).read(path)
    request = request.layer({"environment": {"n_head": 2, "seed": 1}, "set": {"model.n_head": 8}})
    request = request.layer({"flag": {"steps": 9}})
    assert request.config.model.n_head == 8
    assert request.config.train.steps == 9
    assert request.origins == {
        "n_embd": "preset",
        "n_layer": "file",
        "seed": "environment",
        "n_head": "set",
        "steps": "flag",
    }
    assert request.requested("n_layer"), "a file's value counts, be it the default one"
    assert not request.requested("block_size", "dropout")
    assert request.requested("block_size", "n_embd")
    taken_back = request.layer({"default": {"steps": 420}})
    assert not taken_back.requested("steps")
    assert request.requested("steps"), "a request does not change"


def test_values_of_one_layer_are_checked_together() -> None:
    request = Request().layer({"environment": {"n_head": 3}, "set": {"n_embd": 96}})
    assert (request.config.model.n_head, request.config.model.n_embd) == (3, 96)


def test_plain_settings_are_a_request_for_what_differs() -> None:
    request = Request.of(Config().override(n_layer=6, steps=50))
    assert {name for name in FIELDS if request.requested(name)} == {"n_layer", "steps"}
    timed = Request.of(Config().override(n_layer=6, steps=50, minutes=1))
    assert timed.requested("minutes")
    assert not timed.requested("steps"), "with minutes the time says how many"


@pytest.mark.parametrize("origin", ["file", "environment", "set", "flag"])
def test_no_minutes_are_refused_wherever_they_come_from(origin: Origin) -> None:
    none = Request().layer({"preset": {"steps": 200}}).layer({origin: {"minutes": 0.0}})
    with pytest.raises(ConfigError, match="minutes = 0 leaves no time to train"):
        none.lasting(None)
    with pytest.raises(ConfigError, match="minutes"):
        none.layer({origin: {"steps": 5}} if origin != "file" else {}).lasting(2.0)
    if origin != "flag":
        assert none.layer({"flag": {"steps": 5}}).lasting(2.0).config.train.steps == 5
    longer = none.layer({"flag": {"minutes": 3.0}}).lasting(2.0)
    assert longer.config.train.minutes == 3


def test_the_settings_of_a_run_say_how_long_it_trains(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for values in ({"steps": 7}, {"steps": 7, "minutes": 2.0}):
        path.write_text(Config().override(**values).to_toml(), encoding="utf-8")
        train = Request().read(path).lasting(None).config.train
        assert {"steps": train.steps, "minutes": train.minutes} == {"minutes": 0.0} | values


def test_a_step_reads_every_token_of_its_batches() -> None:
    config = Config().override(batch_size=3, gradient_accumulation=2, block_size=16)
    assert config.tokens_per_step == 96
