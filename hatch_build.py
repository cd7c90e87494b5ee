"""Compiles the C kernels into a wheel, for each kind of processor of this machine's architecture.

Without a C compiler the wheel has none, and hornbook compiles on first use or uses PyTorch. An
editable installation has none either: its sources change.
"""

import hashlib
import importlib.util
import json
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path(__file__).parent / "src" / "hornbook" / "kernels"


def load(name: str) -> Any:
    """A file of the kernels as a module by itself: hornbook's dependencies are not there."""
    spec = importlib.util.spec_from_file_location(f"kernels_{name}", KERNELS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class KernelsHook(BuildHookInterface):
    """Adds `kernels/built` to the wheel, and names the wheel after the platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before hatch collects the files."""
        recipe = load("recipe")
        found = recipe.compiler()
        if version == "editable" or found is None:
            return
        # Not the machine's but Python's platform: a 32-bit or a cross-compiling Python has another.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        architecture = {"amd64": "x86_64", "arm64": "aarch64"}
        machine = next((each for each in (*architecture, *architecture.values())
                        if platform.endswith(each)), "")  # fmt: skip
        machine = architecture.get(machine, machine)
        wanted = [
            (target, sources)
            for target in recipe.TARGETS
            for sources in recipe.LIBRARIES
            if target.machine == machine and (sources.precision == "float32" or target.bfloat16)
        ]
        self.folder = tempfile.TemporaryDirectory(prefix="kernels-")
        place = Path(self.folder.name)

        def build(each: tuple[Any, Any]) -> tuple[str, dict[str, str]] | None:
            target, sources = each
            name = f"{target.name}/{sources.name}.so"
            (place / target.name).mkdir(exist_ok=True)
            command = recipe.command(found, sources, target, str(place / name))
            done = subprocess.run(
                command, cwd=KERNELS, capture_output=True, text=True, check=False, timeout=300
            )
            if done.returncode:
                complaint = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[0]
                self.app.display_warning(f"{name} is not in the wheel: {complaint}")
                return None
            digest = hashlib.sha256((place / name).read_bytes()).hexdigest()
            return name, {"sha256": digest, "fingerprint": recipe.fingerprint(sources, target)}

        with ThreadPoolExecutor() as pool:
            libraries = dict(filter(None, pool.map(build, wanted)))
        if not libraries:
            return
        asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        described = {"compiler": asked.stdout.splitlines()[0], "libraries": libraries}
        (place / "manifest.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
        build_data["force_include"][str(place)] = "hornbook/kernels/built"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, *_: Any) -> None:
        """Remove what the wheel now has."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
