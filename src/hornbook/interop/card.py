"""The model card: what an exported model is, what it was made from, and how to use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hornbook import __version__
from hornbook.errors import display_path, quoted
from hornbook.runs.result import kept_figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hornbook.interop.request import Request
    from hornbook.runs.load import TrainedModel

USES = {
    "hf": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({folder})
tokenizer = AutoTokenizer.from_pretrained({folder})
prompt = tokenizer({prompt}, return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(prompt)[0]))
```""",
    "gguf": """```sh
llama-server -m model.gguf                      # llama.cpp
ollama create {name} -f Modelfile && ollama run {name}   # Ollama
```""",
    "onnx": """```js
import {{ pipeline }} from "@huggingface/transformers";

const write = await pipeline("text-generation", {folder}, {{ dtype: "fp32" }});
console.log((await write({prompt}))[0].generated_text);
```

`onnx/model.onnx` has a key-value cache; `onnx/model_without_cache.onnx` does without.""",
}
UNLICENSED = "\nNo licence was chosen. The licence of its training text may apply.\n"


def card(trained: TrainedModel, request: Request, folder: str, checks: Sequence[str]) -> bytes:
    """The file README.md. `checks` say what engines compute."""
    to, licence = request.to, request.licence
    name = display_path(trained.folder.path.resolve().name)
    # A prompt of characters that the model knows.
    prompt = json.dumps(
        trained.generate(max_new_tokens=8, temperature=0) or "\n", ensure_ascii=False
    )
    facts = list(figures(trained))
    rows = "\n".join(f"| {label} | {value.replace('|', '/')} |" for label, value in facts)
    library = {"hf": "transformers", "gguf": "gguf", "onnx": "transformers.js"}[to]
    return f"""---
license: {licence or "other"}
library_name: {library}
pipeline_tag: text-generation
tags: [hornbook]
---

# {name}

{origin(trained)}
{"" if licence else UNLICENSED}
| | |
| --- | --- |
{rows}

## What engines compute

{chr(10).join(f"- {each}" for each in checks)}

## Use

{USES[to].format(name=quoted(name), folder=json.dumps(folder), prompt=prompt)}
""".encode()


def origin(trained: TrainedModel) -> str:
    """What the model was made from, in a sentence or two."""
    began = trained.folder.environment_facts().get("pretrained")
    if isinstance(began, dict):
        # Its name alone: a path may be nobody's business.
        name = display_path(str(began.get("name")).rstrip("/").rpartition("/")[2])
        return (
            f"{name}, fine-tuned on one text with hornbook {__version__}. The licence of the model "
            "that it began as applies to it too."
        )
    return (
        f"A language model trained from scratch on one text with hornbook {__version__}. It "
        "continues texts of\nthat kind; it does not answer questions."
    )


def figures(trained: TrainedModel) -> list[tuple[str, str]]:
    """The figures of the report card, where the run has ended, and the facts of its beginning."""
    config, model = trained.config, trained.model
    environment = trained.folder.environment_facts()
    result = kept_figures(trained.folder)
    tokenizer = trained.tokenizer
    rows = [
        # Its name alone: a path or an address may be nobody's business.
        ("training text", display_path(config.data.corpus.rstrip("/").rpartition("/")[2])),
        ("SHA-256 of the text", display_path(str(environment.get("corpus_sha256")))),
        ("tokens", f"{tokenizer.vocab_size:,} distinct ({tokenizer.kind})"),
        ("model", f"{config.model.model}, {model.parameter_count:,} parameters"),
        ("block size", f"{model.block_size:,} tokens"),
        ("step of the weights", f"{trained.step:,}"),
    ]
    for label, key in (
        ("validation loss, nats per character", "val_nats_per_char"),
        ("bits per character", "val_bits_per_char"),
        ("bits per byte", "val_bits_per_byte"),
    ):
        if isinstance(value := result.get(key), float):
            rows.append((label, f"{value:.4f}"))
    baselines = result.get("baselines_nats_per_char")
    if isinstance(baselines, dict) and isinstance(value := baselines.get("ngram"), float):
        rows.append(("n-gram model of the same text, nats per character", f"{value:.4f}"))
    return rows
