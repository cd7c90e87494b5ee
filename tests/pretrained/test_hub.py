"""Names on the Hub, without a network: what was downloaded before is read, the rest refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import foreign
import pytest
from commands import environment

pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# In a process of its own: huggingface_hub reads its environment when it is imported.
OPEN = """
import sys
from hornbook.errors import HornbookError
from hornbook.pretrained.find import open_source
for name in sys.argv[1:]:
    try:
        found = open_source(name)
        print(found.settings["pretrained"], found.facts["revision"], found.settings["n_layer"])
    except HornbookError as error:
        print("refused:", error)
"""


def test_a_name_is_pinned_to_its_commit_and_what_is_not_there_is_refused(tmp_path: Path) -> None:
    saved = foreign.save(foreign.make("llama"), tmp_path / "saved")
    home = tmp_path / "hub" / "models--somebody--small"
    shutil.copytree(saved, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    names = ["somebody/small", f"somebody/small@{COMMIT}", "somebody/other", "../escape/it"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OPEN, *names],
        env=environment(tmp_path, **offline), capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, third, fourth = done.stdout.splitlines()
    assert first == second == f"somebody/small@{COMMIT} {COMMIT} 2"
    assert third.startswith("refused: somebody/other: the Hub cannot be reached, and the model was")
    assert fourth.startswith("refused: --from ../escape/it: no such file or folder")
