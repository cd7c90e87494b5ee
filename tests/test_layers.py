"""The house's layers: a module imports only from the layers below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import hornbook

SOURCE = Path(hornbook.__file__).parent

LAYERS = [
    {"errors"},
    {"language"},
    {"cores"},
    {"storage"},
    {"config"},
    {"text"},
    {"ngram"},
    {"kernels"},
    {"parallel"},
    {"models"},
    {"scale"},
    {"optim"},
    {"infer"},
    {"preparation"},
    {"eval"},
    {"plan"},
    {"runs"},
    {"pretrained"},
    {"training"},
    {"interop"},
    {"report"},
    {"learn"},
    {"page"},
    {"lens"},
    {"serve"},
    {"cli"},
    {"__main__"},
]


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The hornbook modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "hornbook":
                names = [f"hornbook.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("hornbook.")}
    return found


def test_no_module_imports_upward() -> None:
    height = {module: level for level, layer in enumerate(LAYERS) for module in layer}
    files = [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]
    assert {module_of(path) for path in files} == set(height), "give each module a layer"
    upward = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in files
        for name in imported(path)
        if name in height and height[name] >= height[module_of(path)] and name != module_of(path)
    ]
    assert not upward


def test_importing_hornbook_and_asking_for_help_leave_torch_alone() -> None:
    code = (
        "import sys, hornbook, hornbook.cli, hornbook.cli.train\n"
        "assert hornbook.cli.run(['--help']) == 0\n"
        "assert hornbook.cli.run(['train', '--help']) == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_training_that_compiles_nothing_never_imports_torchs_compiler(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be, or not to be: that is the question.\n" * 40, encoding="utf-8")
    # As long as importing torch itself, before the first step.
    code = (
        "import sys, hornbook.cli\n"
        f"arguments = ['train', {str(text)!r}, '--preset', 'quick', '--steps', '2', '--set', "
        f"'block_size=16', '--set', 'compile=off', '--out', {str(tmp_path / 'run')!r}]\n"
        "assert hornbook.cli.run(arguments) == 0\n"
        "assert 'torch' in sys.modules\n"
        "assert 'torch._dynamo' not in sys.modules, 'the compiler was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_every_public_name_is_there() -> None:
    for name in hornbook.HOMES:
        assert getattr(hornbook, name) is not None
    assert set(hornbook.HOMES) <= set(dir(hornbook))
