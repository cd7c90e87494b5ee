"""The help of every command, and the errors of its arguments, in the current language.

cyclopts reads the help from docstrings and says in English what is wrong with arguments. In English
both stay as it has them; their text is what the catalogue translates.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hornbook.language import current, msg, template_in, tr

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec, HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions, RenderableType

LANGUAGE_OPTION = msg(
    "--lang en or ko is the language of what is printed; by default that of the environment (LANG)."
)

# The help that is cyclopts' own.
TITLES = (
    msg("Arguments"),
    msg("Commands"),
    msg("Parameters"),
    msg("Display this message and exit."),
    msg("Display application version."),
)

# What is wrong with arguments, as cyclopts and the converters of `terminal.py` say it; the first
# that fits is taken.
MISTAKES = (
    "Unknown option: {option}. Did you mean {near}?",
    "Unknown option: {option}.",
    'Unknown command "{command}". Did you mean "{near}"? Available commands: {commands}',
    'Unknown command "{command}". Available commands: {commands}',
    'Invalid value "{value}" for {name}. Choose from: {choices}. Did you mean "{near}"?',
    'Invalid value "{value}" for {name}. Choose from: {choices}.',
    'Invalid value for {name}: unable to convert "{value}" into {kind}.',
    "Invalid value for {name}: {mistake}",
    'Command "{command}" parameter {name} requires an argument.',
    "Parameter {name} requires an argument.",
    "Parameter {name} specified multiple times.",
    "unknown option {option}",
    "expected a whole number from 0 to {most}, got {value}",
    "expected a whole number, got {value}",
)


class Help:
    """Prints help as cyclopts does, translated. In English it changes nothing."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Print one panel: the commands, or the parameters of a command."""
        from cyclopts.help import DefaultFormatter

        if current() == "en":
            DefaultFormatter()(console, options, panel)
            return
        formatter = DefaultFormatter(column_specs=columns_of(panel.format))
        formatter(console, options, panel.copy(title=template_in("ko", str(panel.title))))

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        """Print the usage line."""
        from cyclopts.help import DefaultFormatter
        from rich.text import Text

        if current() == "en":
            DefaultFormatter().render_usage(console, options, usage)
        else:
            console.print(Text.assemble((tr("Usage:"), "bold"), " ", usage))

    def render_description(
        self, console: "Console", options: "ConsoleOptions", description: Any
    ) -> None:
        """Print what a command does."""
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_description(console, options, translated_help(description))


def columns_of(kind: str) -> "Callable[..., tuple[ColumnSpec, ...]]":
    """The columns of a panel as cyclopts has them, the last one translated."""
    from cyclopts.help import specs

    usual = {
        "command": specs.get_default_command_columns,
        "parameter": specs.get_default_parameter_columns,
    }[kind]

    def columns(
        console: "Console", options: "ConsoleOptions", entries: "list[HelpEntry]"
    ) -> "tuple[ColumnSpec, ...]":
        *names, description = usual(console, options, entries)
        return (*names, description.copy(renderer=described))

    return columns


def described(entry: "HelpEntry") -> "RenderableType":
    """The description of a command or parameter, then its choices, its default, or "required"."""
    from cyclopts.help import InlineText
    from rich.text import Text

    found = translated_help(entry.description) or InlineText(Text())
    if entry.choices:
        choices = ", ".join(entry.choices)
        found.append(Text(tr("[choices: {choices}]", choices=choices), "cyclopts.choices"))
    if entry.default is not None:
        found.append(Text(tr("[default: {value}]", value=entry.default), "cyclopts.default"))
    if entry.required:
        found.append(Text(tr("[required]"), "cyclopts.required"))
    return found


def translated_help(description: Any) -> Any:
    """Help in Markdown, as cyclopts has read it, in the current language, a paragraph each."""
    from cyclopts.help import InlineText

    text = getattr(getattr(description, "primary_renderable", None), "markup", "")
    if current() == "en" or not text:
        return description
    paragraphs = "\n\n".join(template_in("ko", each) for each in text.strip().split("\n\n"))
    ends = description.force_empty_end
    return InlineText.from_format(paragraphs, "markdown", force_empty_end=ends)


def mistake_in(text: str) -> str:
    """What is wrong with arguments, in the current language."""
    for template in MISTAKES if current() != "en" else ():
        names = re.split(r"\{(\w+)\}", template)
        pattern = "".join(
            f"(?P<{part}>.+?)" if number % 2 else re.escape(part)
            for number, part in enumerate(names)
        )
        if found := re.fullmatch(pattern, text, re.DOTALL):
            values = {name: mistake_in(value) for name, value in found.groupdict().items()}
            return tr(template, **values)
    return text
