"""`hornbook export`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hornbook.cli.console import note, output
from hornbook.cli.terminal import TEXT, print_json
from hornbook.errors import display_path
from hornbook.language import tr, translated


def run(
    run: Path,
    /,
    *,
    to: Literal["hf", "gguf", "onnx"],
    out: Path | None = None,
    checkpoint: Literal["best", "last"] = "best",
    weights: Literal["f32", "f16", "bf16", "q8_0"] = "f32",
    windows: bool = True,
    licence: Annotated[str, Parameter(name="--license")] = "",
    text: Annotated[str | None, TEXT] = None,
    json: bool = False,
) -> None:
    """Export a run for other programs, and check the export in one of them.

    Args:
        run: The run folder.
        to: hf for transformers, gguf for llama.cpp and Ollama, onnx for onnxruntime and browsers.
        out: The new folder; by default beside the run's own.
        checkpoint: Which weights: those with the lowest validation loss, or the last.
        weights: The precision of a GGUF's weights; what it costs in loss is measured and printed.
        windows: Whether a GGUF has the model's windows, which need a llama.cpp of February 2026 or
            later. Without them it is a plain Qwen3 with a context of one block.
        licence: The licence that the model card names, as mit or cc-by-sa-4.0.
        text: Where the run's own text is now, if it was moved since.
        json: Print one JSON object.
    """
    from hornbook.interop.export import export
    from hornbook.interop.request import Request

    made = export(run, Request(to, weights, windows, licence), out, which=checkpoint, text=text)
    for message in made.notes:
        note(message)
    if json:
        print_json(made.as_dict())
        return
    console = output()
    for each in made.checked:
        console.print(translated(str(each)), markup=False)
    console.print(
        tr("The export is in {folder}", folder=display_path(made.folder)),
        soft_wrap=True,
        markup=False,
    )
