"""`hornbook train`."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hornbook.cli.terminal import CorpusArgument, read
from hornbook.config import (
    PRESETS,
    Config,
    environment_settings,
    load_config,
    parse_assignments,
)
from hornbook.config import (
    preset as named_preset,
)
from hornbook.errors import ConfigError, HornbookError


def run(
    corpus: CorpusArgument = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    preset: str | None = None,
    model: str | None = None,
    order: int | None = None,
    with_counts: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    steps: int | None = None,
    seed: int | None = None,
    tokenizer: str | None = None,
    encoding: str | None = None,
    json: bool = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> None:
    """Train a model on a text.

    Settings come, strongest first, from flags, environment variables (HORNBOOK_N_LAYER=6), the
    --config file, and the preset.

    Parameters
    ----------
    corpus
        A name (see hornbook corpora), a file, a folder of text files, a URL, or - for standard
        input; python-docs, which comes with Python, when left out.
    out
        The run folder to make; runs/CORPUS-N when left out.
    resume
        Go on with the run in this folder.
    preset
        Where the settings start from: laptop (two minutes on two cores), quick (twenty
        seconds), or a rung of the ladder by its name, as --model takes it.
    model
        A rung of the ladder, with its own settings: bigram, average, head, heads, feedforward,
        residual, layernorm, lecture (large: for a GPU), gpt (the laptop preset), or ngram
        (counting: seconds, and nothing to train).
    order
        How long the counted runs of tokens are, for ngram and --with-counts; chosen on text held
        out from the training part when left out.
    with_counts
        Join the network and counts of the same text in one model.
    config
        A TOML file of settings; a run's config.toml is one.
    set_
        Any setting as key=value, for example --set n_layer=6; may be given several times.
    steps
        How many steps to train.
    seed
        Fixes everything that is random.
    tokenizer
        What a token is: char, byte, or bpe.
    encoding
        The text's encoding, where it is not UTF-8.
    json
        End with one JSON object on stdout, and nothing else there.
    quiet
        No display, only the result.
    """
    assignments = parse_assignments(set_ or [])
    flags = {
        "corpus": corpus,
        "order": order,
        "with_counts": with_counts or None,
        "steps": steps,
        "seed": seed,
        "tokenizer": tokenizer,
        "encoding": encoding,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    others = {"config": config, "out": out, "preset": preset, "model": model}
    named = [*given, *assignments, *(name for name, value in others.items() if value is not None)]
    if resume is not None and named:
        raise ConfigError(
            f"--resume goes on with the run's own settings, so {', '.join(named)} cannot be given "
            "too; train a new run for other settings"
        )
    settings = resolve(preset, model, config, environment_settings() | assignments).override(
        **given
    )

    # Only now: a wrong setting should not wait for torch.
    from hornbook import training as engine
    from hornbook.cli.display import Display
    from hornbook.result import conclude

    display = Display(quiet=quiet)
    if resume is not None:
        training = engine.resume(resume)
    else:
        text = read(settings.data.corpus, settings.data.encoding)
        training = engine.begin(settings, out=out, corpus=text)
    display.announce(training)
    try:
        with display:
            for metrics in engine.steps(training):
                display.show(metrics)
    except (KeyboardInterrupt, SystemExit):
        display.say(
            f"stopped at step {training.step} of {training.config.train.steps}, saved; go on with:"
            f"\n  hornbook train --resume {training.folder.path}"
        )
        raise
    except HornbookError:
        display.say(f"the run so far is in {training.folder.path}")
        raise
    result = conclude(training)
    if json:
        sys.stdout.write(json_format.dumps(result.as_dict()) + "\n")
    else:
        display.conclude(result)


def resolve(
    preset: str | None, model: str | None, config: Path | None, assignments: dict[str, str]
) -> Config:
    """The settings of a preset (a rung's own, when a model is named), file and assignments.

    Raises: ConfigError for an unknown name, or a preset or setting of another model.
    """
    rungs = {"gpt": "laptop"} | {name: name for name in PRESETS if name not in ("laptop", "quick")}
    if model is not None and model not in rungs:
        raise ConfigError(f"--model {model}: expected one of {', '.join(sorted(rungs))}")
    own = named_preset(rungs[model or "gpt"])
    settings = own if preset is None else named_preset(preset)
    if config is not None:
        settings = load_config(config, settings)
    settings = settings.override_from_text(assignments)
    # The rung `lecture` is a layernorm model by kind, so kinds are compared, not names.
    if model is not None and settings.model.model != own.model.model:
        raise ConfigError(
            f"--model {model} is at odds with model = {settings.model.model!r} from --preset, "
            "--config, --set or HORNBOOK_MODEL; give one of them"
        )
    return settings
