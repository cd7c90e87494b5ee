"""`hornbook verify`."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from hornbook.cli.console import padded
from hornbook.cli.terminal import print_json
from hornbook.errors import for_terminal
from hornbook.language import tr, translated


def run(run: Path, /, *, json: bool = False) -> int:
    """Check every file of a run or a store; the exit status is 1 if any is damaged or missing.

    Args:
        run: The folder of a run, or of a store.
        json: Print one JSON object: each file and checkpoint, whether it is sound, and the SHA-256
            of each checkpoint's weights and optimizer files.
    """
    from hornbook.runs.verify import Finding, verify, verify_store
    from hornbook.text.store import is_store

    verdict = verify_store(run) if is_store(run) else verify(run)
    if json:
        print_json(verdict.as_dict())
        return 0 if verdict.sound else 1
    console = Console(soft_wrap=True, highlight=False)
    findings: list[Finding] = [*verdict.files, *verdict.checkpoints]
    names = [str(each.path.relative_to(run)) for each in findings]
    width = max(map(len, names))
    for name, each in zip(names, findings, strict=True):
        mark = f"[bold red]{padded(tr('UNSOUND'), 7)}[/]"
        if each.sound:
            mark = f"[green]{padded(tr('sound'), 7)}[/]"
        line = f"{name:<{width}}  {translated(each.fault or each.holds)}"
        console.print(f"{mark}  {escape(for_terminal(line))}")
    unsound = sum(not each.sound for each in findings)
    if unsound:
        figures = {"run": run, "unsound": unsound, "number": len(findings)}
        console.print(tr("{run}: {unsound} of {number} unsound", **figures))
    else:
        console.print(tr("{run}: sound", run=run))
    return 1 if unsound else 0
