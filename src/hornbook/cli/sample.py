"""`hornbook sample`."""

import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hornbook.cli.console import note, printable
from hornbook.cli.terminal import FreeText, Natural, fit_text, print_json
from hornbook.language import msg, tr

if TYPE_CHECKING:
    from hornbook.text.tokenizer import Tokenizer

# They are listed before the first is generated.
MOST_SAMPLES = 100_000


def run(
    run: Path,
    /,
    *,
    prompt: FreeText = "",
    max_new_tokens: Natural = 500,
    temperature: float = 1.0,
    top_k: Natural = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True)] = (),
    seed: Natural = 0,
    num_samples: Natural = 1,
    checkpoint: Literal["best", "last"] = "best",
    weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    unknown: Literal["error", "skip", "replace"] = "error",
    escapes: Annotated[bool, Parameter(negative="")] = False,
    encoding: str | None = None,
    json: bool = False,
) -> None:
    """Generate text with a trained model; it streams to stdout as it is made.

    Args:
        run: The run folder.
        prompt: The text to continue, or the message to answer for a model trained with --chat;
            - reads it from standard input.
        max_new_tokens: The most tokens to generate.
        temperature: Below 1 safer, above 1 bolder; 0 always takes the most likely token.
        top_k: Draw only from the k most likely tokens; 0 for all.
        top_p: Draw from the most likely tokens that together have this probability.
        min_p: Drop tokens less likely than this share of the most likely one's probability.
        repetition_penalty: Above 1 makes tokens that are already in the context less likely.
        stop: End before this text appears; may be given several times.
        seed: The first sample's seed; each further sample takes the next one.
        num_samples: How many samples to generate. They run together, and each is what it would be
            alone.
        checkpoint: Which weights: those with the lowest validation loss, or the last.
        weights: The precision of the weights; auto is float32 up to 4 million parameters, bfloat16
            above. int8 is smaller still; what it costs in loss is measured and printed.
        unknown: What to do with characters of the prompt that are not in the vocabulary.
        escapes: Read \\n, \\r, \\t, \\xHH and \\uHHHH in the prompt and in the stop strings as the
            characters that they name, and \\\\ as a backslash.
        encoding: The prompt's encoding, if it is not UTF-8.
        json: Print one JSON object a sample, one a line, instead of text.
    """
    from hornbook.cli.prompt import piped, typed
    from hornbook.config import load_config
    from hornbook.errors import ConfigError
    from hornbook.runs.engine import open_engine
    from hornbook.runs.folder import open_run
    from hornbook.text.forms import formed_text, reformed

    if encoding is not None:
        from hornbook.text.decoding import expect_encoding

        expect_encoding(encoding)
    for name, value in (("max-new-tokens", max_new_tokens), ("num-samples", num_samples)):
        if value < 1:
            raise ConfigError(msg("--{name} {value}: expected 1 or more", name=name, value=value))
    if num_samples > MOST_SAMPLES:
        raise ConfigError(
            msg(
                "--num-samples {number}: expected at most {most:,}",
                number=num_samples,
                most=MOST_SAMPLES,
            )
        )
    engine = open_engine(run, which=checkpoint, weights=weights, rows=num_samples)
    if engine.remark:
        note(engine.remark)
    if prompt == "-":
        prompt = piped(engine.tokenizer, encoding)
    else:
        prompt = typed("--prompt", prompt, escapes=escapes, encoding=encoding)
    stop = tuple(typed("--stop", each, escapes=escapes, encoding=encoding) for each in stop)
    data = load_config(open_run(run).config).data
    prompt = formed_text(prompt, data)
    prompt = fit_text(engine.tokenizer, prompt, unknown)
    asked, ends = question(
        prompt, data.chat_template if data.conversations else None, engine.tokenizer
    )
    stop = (*stop, *ends)
    prompt += "\n\n" * bool(ends)  # what is generated is an answer to it
    seeds = range(seed, seed + num_samples)
    texts = engine.streams(
        asked,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
        stop=stop,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    # A terminal would obey control characters; a file or a pipe gets the exact text.
    shown = printable if sys.stdout.isatty() else str
    for number, text in enumerate(texts):
        if json:
            row = {"sample": number, "seed": seeds[number], "prompt": prompt, "text": "".join(text)}
            print_json(row, ascii_only=False)
            continue
        if num_samples > 1:
            heading = tr("--- sample {number}", number=number + 1)
            sys.stdout.write(f"{'' if number == 0 else chr(10)}{heading}\n")
        pieces = chain([prompt] if prompt else [], text)
        if sys.stdout.isatty():  # a CR alone would have the next line overwrite this one
            pieces = reformed(pieces, newlines="lf", normalize="none")
        for piece in pieces:
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
        sys.stdout.write("\n")


def question(
    prompt: str, template: str | None, tokenizer: "Tokenizer"
) -> "tuple[str | list[int], tuple[str, ...]]":
    """What a model is given, and the strings that end its answer.

    Without a `template` of its conversations it continues the prompt, and nothing ends that.
    """
    if template is None:
        return prompt, ()
    from hornbook.text.chat import chat_stops, chat_tokens

    message = {"role": "user", "content": prompt}
    return chat_tokens(template, [message], tokenizer), chat_stops(tokenizer)
