"""`hornbook train`."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hornbook.config import (
    environment_settings,
    load_config,
    parse_assignments,
)
from hornbook.config import (
    preset as named_preset,
)
from hornbook.errors import ConfigError, HornbookError


def run(
    corpus: str | None = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    preset: str = "laptop",
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
        seconds), bigram (the lecture's first model).
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
        named = [*given, *assignments, *(["config"] if config else []), *(["out"] if out else [])]
        if named:
            raise ConfigError(
                f"--resume goes on with the run's own settings, so {', '.join(named)} cannot be "
                "given too; train a new run for other settings"
            )
        settings = None
    else:
        settings = named_preset(preset)
        if config is not None:
            settings = load_config(config, settings)
        settings = settings.override_from_text(environment_settings() | assignments)
        settings = settings.override(**given)

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
