"""How many cores a process may use, from fake cgroup trees, real affinity and the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook import cores
from hornbook.cli.doctor import run as doctor
from hornbook.config import Config, preset
from hornbook.infer.native_decoder import choose_threads
from hornbook.plan.machine import ThreadsWarning, choose


def tree(
    root: Path, cgroup: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, affinity: int
) -> cores.Cores:
    """What is usable under a fake /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(cores, "affinity_count", lambda: affinity)
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, contents in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents)
    return cores.usable(requested="", proc=root / "proc", cgroups=root / "cgroup")


QUOTAS = {
    "no limit (2)": ("0::/", {"cpu.max": "max 100000"}, None),
    "own (2)": ("0::/a/b", {"a/b/cpu.max": "200000 100000"}, 2.0),
    "ancestor (2)": ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1.0),
    "least (2)": ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "50000 100000"}, 0.5),
    "root of a container (2)": ("0::/docker/abc", {"cpu.max": "150000 100000"}, 1.5),
    "beside another (2)": ("0::/a", {"b/cpu.max": "100000 100000"}, None),
    "outside the mount (2)": ("0::/../x", {"cpu.max": "100000 100000"}, 1.0),
    "no limit (1)": (
        "4:cpu,cpuacct:/",
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        None,
    ),
    "own (1)": (
        "4:cpu,cpuacct:/a\n1:name=systemd:/",
        {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"},
        1.5,
    ),
    "both versions": (
        "1:cpu:/a\n0::/a",
        {
            "cpu/a/cpu.cfs_quota_us": "200000",
            "cpu/a/cpu.cfs_period_us": "100000",
            "unified/a/cpu.max": "300000 100000",
        },
        2.0,
    ),
    "damaged": ("0::/a", {"a/cpu.max": "much", "cpu.max": "100000 100000"}, 1.0),
    "damaged list": ("nothing", {"cpu.max": "100000 100000"}, None),
    "no period": ("0::/", {"cpu.max": "100000 0"}, None),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup, files, quota = QUOTAS[name]
    found = tree(tmp_path, cgroup, files, monkeypatch, affinity=8)
    assert found.quota == quota
    assert found.count == (8 if quota is None else max(1, int(quota + 0.5)))
    assert ("quota" in found.why) == (quota is not None)


def test_a_quota_above_the_affinity_sets_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tree(tmp_path, "0::/", {"cpu.max": "800000 100000"}, monkeypatch, affinity=2)
    assert found.count == 2
    assert "quota" not in found.why


def test_a_cgroup_file_that_cannot_be_read_sets_no_limit(tmp_path: Path) -> None:
    assert cores.cgroup_quota(tmp_path, tmp_path) is None
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/")
    (tmp_path / "cpu.max").mkdir()
    assert cores.cgroup_quota(tmp_path, tmp_path) is None


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), ("3,2", 3), ("", 0), ("x", 0), ("-1", 0), ("²", 0)]
)
def test_omp_num_threads(value: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cores.requested_threads() == threads


def python(code: str, command: tuple[str, ...] = (), **environment: str) -> str:
    """What a fresh process prints, without the variables that OpenMP reads unless given."""
    omp = ("OMP_NUM_THREADS", *cores.WAITING)
    clean = {name: value for name, value in os.environ.items() if name not in omp}
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        env=clean | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_process_pinned_to_one_core_uses_one_thread() -> None:
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:
        pytest.skip("this system has no affinity")
    core = min(affinity(0))
    pin = f"import os; os.sched_setaffinity(0, [{core}])\n"
    code = "from hornbook import cores; print(cores.usable().count, cores.usable().why)"
    assert python(pin + code).startswith("1 ")
    code = (
        "from hornbook.plan import machine; from hornbook.config import Config\n"
        "print(machine.choose(Config()).threads)"
    )
    assert python(pin + code) == "1"


def test_importing_hornbook_sets_nothing() -> None:
    code = "import os, hornbook; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python(code) == "None"


QUOTA = "import os; from hornbook import cores\ncores.cgroup_quota = lambda *_: 1.0\n"
QUOTA += "cores.affinity_count = lambda: 2\n"


@pytest.mark.parametrize(
    "code",
    [
        "import sys, hornbook as hb; assert 'torch' not in sys.modules; hb.GPT",
        "from hornbook.cli import run; run(['corpora', '--help'])",
    ],
    ids=["notebook", "command line"],
)
def test_openmp_is_told_of_a_quota_before_torch_is_imported(code: str) -> None:
    asked = "\nprint('>', os.environ.get('OMP_NUM_THREADS'), os.environ.get('GOMP_SPINCOUNT'))"
    spins = None if Path("/proc/self/schedstat").exists() else cores.SPINS
    assert python(QUOTA + code + asked).endswith(f"> 1 {spins}")


def test_threads_spin_less_where_nobody_can_tell_how_long_they_wait() -> None:
    code = "import os; from pathlib import Path; from hornbook import cores\n"
    code += "cores.before_torch(schedstat=Path('nowhere'))\n"
    code += "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    assert python(code) == f"{cores.SPINS} None"
    assert python(code, GOMP_SPINCOUNT="7") == "7 None"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "None ACTIVE"


def test_where_torch_is_loaded_first_the_environment_stays() -> None:
    code = "import os, torch, hornbook as hb; hb.GPT; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python(code) == "None"


def test_a_quota_sets_torchs_threads_before_it_is_imported() -> None:
    code = "cores.before_torch(); import torch\n"
    code += "print(torch.get_num_threads(), cores.usable().why)"
    assert python(QUOTA + code) == "1 a cgroup quota of 1 core"


def test_in_a_notebook_that_loaded_torch_first_a_quota_still_counts() -> None:
    code = (
        "import os, torch; torch.set_num_threads(2)\n"
        "import hornbook as hb; from hornbook import cores\n"
        "cores.cgroup_quota = lambda *_: 1.0\n"
        "hb.GPT; print(torch.get_num_threads())"
    )
    assert python(code) == "1"


def test_threads_above_what_may_be_used_are_a_warning_and_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "cgroup_quota", lambda *_: 1.0)
    with pytest.warns(ThreadsWarning, match="may use 1 ") as found:
        chosen = choose(Config().override(threads=2))
    assert chosen.threads == 2
    assert "\n" not in str(found[0].message)


def test_the_decoder_keeps_within_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "affinity_count", lambda: 8)
    monkeypatch.setattr(cores, "cgroup_quota", lambda *_: None)
    assert choose_threads(100_000_000) == 8
    monkeypatch.setattr(cores, "cgroup_quota", lambda *_: 2.0)
    assert choose_threads(100_000_000) == 2
    assert choose_threads(100_000) == 1


def test_doctor_says_how_many_cores_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "affinity_count", lambda: 2)
    monkeypatch.setattr(cores, "cgroup_quota", lambda *_: 1.0)
    doctor(json=True)
    may = json.loads(capsys.readouterr().out)["usable_cores"]
    assert may == {"count": 1, "why": "a cgroup quota of 1 core", "quota": 1.0}


def test_how_long_a_thread_waited_for_a_core(tmp_path: Path) -> None:
    (tmp_path / "schedstat").write_text("2000000000 500000000 7\n")
    assert cores.thread_seconds(tmp_path / "schedstat") == (2.0, 0.5)
    assert cores.thread_seconds(tmp_path / "absent") == (0.0, 0.0)
    assert cores.slowdown() >= 1


def test_a_rung_too_small_to_share_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("hornbook.plan.machine.default_threads", lambda: 2)
    small, large = preset("layernorm"), preset("lecture")
    assert choose(small).threads == 1
    assert choose(large).threads == choose(Config()).threads == 2
    assert choose(small.override(threads=2)).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose(small).threads == 2
