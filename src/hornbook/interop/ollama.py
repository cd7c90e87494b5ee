"""Ollama's Modelfile: lengths, and the chat template where it has one of the two forms known here.

Ollama reads Go's templates, and the chat templates of models are Jinja's. Which form a template has
is found by what it makes of a conversation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from hornbook.pretrained.chat import chat_template
from hornbook.text.chat import CHATML, SIMPLE_TEMPLATE, TemplateError, end_of_answers, rendered
from hornbook.text.conversations import END, MARKS

if TYPE_CHECKING:
    from hornbook.runs.load import TrainedModel


def written(character: str) -> str:
    """A control character by its number, in Go: no editor shows it otherwise."""
    return f'{{{{ "\\u{ord(character):04x}" }}}}'


# What a template of ours is in Go.
FORMS: Final = {
    CHATML: (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n"
    ),
    SIMPLE_TEMPLATE: (
        '{{ range .Messages }}{{ if eq .Role "system" }}' + written(MARKS["system"])
        + '{{ else if eq .Role "user" }}' + written(MARKS["user"])
        + "{{ else }}" + written(MARKS["assistant"])
        + "{{ end }}{{ .Content }}" + written(END) + "{{ end }}" + written(MARKS["assistant"])
    ),
}  # fmt: skip
CONVERSATION: Final = [
    {"role": role, "content": f"({role} {i})"}
    for i, role in enumerate(("system", "user", "assistant", "user"))
]
QUOTES: Final = '"""'


def modelfile(trained: TrainedModel, file: str, context_size: int) -> str:
    """The Modelfile of a run's GGUF file."""
    lines = [
        f"FROM ./{file}",
        *chat_lines(trained),
        f"PARAMETER num_ctx {context_size}",
        "PARAMETER temperature 0.8",
        # Of a model that continues texts, no token ends one.
        f"PARAMETER num_predict {min(500, context_size // 2)}",
    ]
    return "\n".join([*lines, ""])


def chat_lines(trained: TrainedModel) -> list[str]:
    """How messages become a prompt. Of an unknown template Ollama may find its own form."""
    template = chat_template(trained.folder)
    if template is None:
        return ["TEMPLATE {{ .Prompt }}"]
    lines: list[str] = []
    if found := in_go(template):
        lines = [f"{name} {QUOTES}{text}{QUOTES}" for name, text in found.items() if text]
    end = end_of_answers(template, trained.tokenizer)
    spelled = "" if end is None else trained.tokenizer.decode([end])
    if spelled and spelled.isprintable():
        lines.append(f"PARAMETER stop {json.dumps(spelled)}")
    return lines


def in_go(template: str) -> dict[str, str]:
    """The template in Go, and the system message that it adds where there is none.

    Empty for a template of another form.
    Raises: ConfigError without jinja2.
    """
    for ours, go in FORMS.items():
        try:
            same = rendered(template, CONVERSATION) == rendered(ours, CONVERSATION)
            shorter = rendered(template, CONVERSATION[1:])
        except TemplateError:
            continue
        added = shorter.removesuffix(rendered(ours, CONVERSATION[1:]))
        before, after = rendered(
            ours, [{"role": "system", "content": QUOTES}], answering=False
        ).split(QUOTES)  # fmt: skip
        system = added.removeprefix(before).removesuffix(after)
        if same and added in ("", before + system + after) and QUOTES not in system:
            return {"TEMPLATE": go, "SYSTEM": system}
    return {}
