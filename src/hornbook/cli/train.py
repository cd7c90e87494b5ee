"""`hornbook train`."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hornbook.cli.terminal import CorpusArgument
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
        residual, layernorm, lecture (large: for a GPU), gpt (the laptop preset).
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
        "steps": steps,
        "seed": seed,
        "tokenizer": tokenizer,
        "encoding": encoding,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if resume is not None:
        others = {"config": config, "out": out, "preset": preset, "model": model}
        named = [
            *given,
            *assignments,
            *(name for name, value in others.items() if value is not None),
        ]
        if named:
            raise ConfigError(
                f"--resume goes on with the run's own settings, so {', '.join(named)} cannot be "
                "given too; train a new run for other settings"
            )
        settings = None
    else:
        settings = base_settings(preset, model)
        start = settings.model.model
        if config is not None:
            settings = load_config(config, settings)
        settings = settings.override_from_text(environment_settings() | assignments)
        settings = settings.override(**given)
        if model is not None and settings.model.model != start:
            raise ConfigError(
                f"--model {model} is at odds with model = {settings.model.model!r} from another "
                "setting (--set, --config or HORNBOOK_MODEL); give one of them"
            )

    # Only now: a wrong setting should not wait for torch.
    from hornbook import training as engine
    from hornbook.cli.display import Display
    from hornbook.result import conclude

    display = Display(quiet=quiet)
    training = engine.resume(resume) if resume is not None else engine.begin(settings, out=out)
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


def base_settings(preset: str | None, model: str | None) -> Config:
    """The settings of a preset; of a rung's own one when a model is named.

    Raises: ConfigError for an unknown name, or a preset of another model.
    """
    rungs = {"gpt": "laptop"} | {name: name for name in PRESETS if name not in ("laptop", "quick")}
    if model is not None and model not in rungs:
        raise ConfigError(f"--model {model}: expected one of {', '.join(sorted(rungs))}")
    own = named_preset("laptop" if model is None else rungs[model])
    chosen = own if preset is None else named_preset(preset)
    if model is not None and chosen.model.model != own.model.model:
        raise ConfigError(
            f"--preset {preset} is a {chosen.model.model} model, and --model {model} was asked "
            "for; give one of them"
        )
    return chosen
