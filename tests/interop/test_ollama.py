"""The Modelfile for Ollama: its template makes of messages what the model's own makes."""

import pytest

from hornbook.interop.ollama import in_go
from hornbook.text.chat import CHATML, SIMPLE_TEMPLATE, rendered

pytest.importorskip("jinja2")

# As SmolLM2's: where no message is the system's, one is put in front.
BY_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    + CHATML
)
# The constructs of Go's templates that ours are made of, in Jinja.
IN_JINJA = {
    "{{ range .Messages }}": "{% for message in messages %}",
    '{{ if eq .Role "system" }}': "{% if message['role'] == 'system' %}",
    '{{ else if eq .Role "user" }}': "{% elif message['role'] == 'user' %}",
    "{{ else }}": "{% else %}",
    "{{ .Role }}": "{{ message['role'] }}",
    "{{ .Content }}": "{{ message['content'] }}",
    "{{ end }}": "{% endfor %}",
}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello\nthere"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "And now?"},
]


def in_jinja(go: str) -> str:
    """A template of ours in Go, again as one in Jinja, whose strings know the same escapes."""
    for theirs, ours in IN_JINJA.items():
        go = go.replace(theirs, ours)
    # Jinja would drop a newline at the end of a template.
    return go.replace("{% endfor %}{{ message", "{% endif %}{{ message") + "{{ '' }}"


@pytest.mark.parametrize("template", [CHATML, SIMPLE_TEMPLATE], ids=["ChatML", "ours"])
def test_it_makes_of_messages_what_the_models_own_makes(template: str) -> None:
    found = in_go(template)
    assert found["SYSTEM"] == ""
    assert found["TEMPLATE"].replace("\n", "").isprintable(), "control characters by their numbers"
    for messages in (TALK, TALK[1:]):
        assert rendered(in_jinja(found["TEMPLATE"]), messages) == rendered(template, messages)


def test_a_system_message_that_is_there_by_default_is_one_there_too() -> None:
    found = in_go(BY_DEFAULT)
    assert found["SYSTEM"] == "Be brief."
    with_it = [{"role": "system", "content": found["SYSTEM"]}, *TALK[1:]]
    again = in_jinja(found["TEMPLATE"])
    assert rendered(again, with_it) == rendered(BY_DEFAULT, TALK[1:])
    assert rendered(again, TALK) == rendered(BY_DEFAULT, TALK)


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{% endfor %}",
        CHATML.replace("\n{{", "{{"),
        BY_DEFAULT.replace("Be brief.", 'Say """'),
        BY_DEFAULT.replace("<|im_start|>system\nBe brief.<|im_end|>\n", "Once"),
        "{{ raise_exception('no') }}",
    ],
)
def test_templates_of_another_form_have_none(template: str) -> None:
    assert in_go(template) == {}
