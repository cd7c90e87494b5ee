"""What errors, warnings and notes say is a message, which Korean sessions get in Korean."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hornbook

SOURCE = Path(hornbook.__file__).parent
# ApiError is English, as OpenAI's API is; `choice` lies below the messages.
NOT_OF_IT = {"ApiError"}
PLAIN = {"language/choice.py"}


@cache
def trees() -> dict[str, ast.Module]:
    """The package's files, parsed, by name."""
    return {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }


def called(node: ast.expr) -> str:
    """The name of what is called, without what it is an attribute of."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def family() -> set[str]:
    """The names of hornbook's errors and warnings."""
    bases = {
        node.name: {called(base) for base in node.bases}
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"HornbookError", "HornbookWarning"}
    while new := {name for name, of in bases.items() if of & found} - found - NOT_OF_IT:
        found |= new
    return found


def is_plain(node: ast.expr, assigned: dict[str, list[ast.expr]]) -> bool:
    """Whether an argument is, or may be, a string written in English where it stands."""
    match node:
        case ast.Constant(value=str(text)):
            return bool(text)
        case ast.JoinedStr():
            return True
        case ast.BinOp(left=left, right=right) | ast.IfExp(body=left, orelse=right):
            return is_plain(left, assigned) or is_plain(right, assigned)
        case ast.BoolOp(values=values):
            return any(is_plain(each, assigned) for each in values)
        case ast.Name(id=name):
            return any(is_plain(each, {}) for each in assigned.get(name, ()))
    return False


def has_words(node: ast.expr) -> bool:
    """Whether there are letters in what is written of a string; a path or a command has none."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return any(
        isinstance(each, ast.Constant) and any(map(str.isalpha, str(each.value))) for each in parts
    )


def said_in_english() -> Iterator[str]:
    """Where something of the family is made of a plain string, or one is shown as a note."""
    names = family()
    for path, tree in trees().items():
        shown = {"note", "log"} if path.startswith("cli/") else set()
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for function in [tree, *functions] if path not in PLAIN else []:
            assigned: dict[str, list[ast.expr]] = {}
            nodes = list(ast.walk(function))
            for node in nodes if isinstance(function, ast.FunctionDef) else []:
                if isinstance(node, ast.Assign):
                    for target in node.targets:
                        assigned.setdefault(called(target), []).append(node.value)
            for call in (each for each in nodes if isinstance(each, ast.Call) and each.args):
                name, given = called(call.func), call.args[0]
                told = name in names or name == "warn" or (name in shown and has_words(given))
                if told and is_plain(given, assigned):
                    yield f"{path}:{call.lineno}: {name}"


def test_errors_warnings_and_notes_are_messages() -> None:
    assert {"SourceError", "ExportError", "TrackerWarning"} <= family()
    assert not sorted(set(said_in_english())), "make these of msg(...), and add their Korean"


def test_a_plain_string_is_found_however_it_is_given() -> None:
    given = 'raise E("x"), E(f"{x}"), E("x" if x else msg("y")), E(why), E(msg("x")), E("")'
    calls = [node for node in ast.walk(ast.parse(f"[{given[6:]}]")) if isinstance(node, ast.Call)]
    assigned = {"why": [ast.parse("f'{x}'", mode="eval").body]}
    found = [is_plain(call.args[0], assigned) for call in calls if called(call.func) == "E"]
    assert found == [True, True, True, True, False, False]
