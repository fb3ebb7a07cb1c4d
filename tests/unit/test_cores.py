"""Cores that a process may use: control groups of both versions, made up and nested; affinity; what OpenMP and torch make of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vizsla.cores import control_groups, num_cores

SECOND = "31 23 0:26 {0} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
FIRST = "32 23 0:27 {0} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
HYBRID = "33 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def make_system(root: Path, *, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Write what the kernel shows of control groups, ``files`` below /sys/fs/cgroup."""
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    written |= {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 a rw\n" + mounts,
    }
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def first(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    folder = f"cpu,cpuacct/{group}"
    return {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": f"{period}\n"}


QUOTAS = {
    "none": ("0::/\n", SECOND.format("/"), {}, 64),
    "no limit": ("0::/a\n", SECOND.format("/"), {"a/cpu.max": "max 100000\n"}, 64),
    "a container of version 2": ("0::/\n", SECOND.format("/"), {"cpu.max": "200000 100000\n"}, 2),
    "a part of a core more": ("0::/\n", SECOND.format("/"), {"cpu.max": "150000 100000\n"}, 2),
    "less than a core": ("0::/\n", SECOND.format("/"), {"cpu.max": "10000 100000\n"}, 1),
    "the quota of a group around it": (
        "0::/pods/one/inner\n", SECOND.format("/"),
        {"pods/cpu.max": "800000 100000\n", "pods/one/cpu.max": "300000 100000", "pods/one/inner/cpu.max": "max 100000"}, 3,
    ),
    "its own quota is the smallest": (
        "0::/pods/one\n", SECOND.format("/"), {"pods/cpu.max": "800000 100000\n", "pods/one/cpu.max": "50000 10000"}, 5,
    ),
    "a group beside it": ("0::/one\n", SECOND.format("/"), {"two/cpu.max": "100000 100000\n"}, 64),
    "the host's names in a container": (
        "0::/docker/1f\n", SECOND.format("/docker/1f"), {"cpu.max": "400000 100000\n"}, 4,
    ),
    "a path outside the container": ("0::/../../b\n", SECOND.format("/"), {"cpu.max": "400000 100000\n"}, 4),
    "version 1": ("4:cpu,cpuacct:/docker/1f\n", FIRST.format("/"), first("docker/1f/", 250_000) | first("", -1), 3),
    "version 1 in a container": ("4:cpu,cpuacct:/docker/1f\n", FIRST.format("/docker/1f"), first("", 200_000), 2),
    "version 1, around it": ("4:cpuacct,cpu:/a/b\n", FIRST.format("/"), first("a/", 40_000, 20_000) | first("a/b/", -1), 2),
    "version 1 beside an empty version 2": (
        "4:cpu,cpuacct:/a\n0::/\n", HYBRID + FIRST.format("/"), first("a/", 200_000), 2,
    ),
    "nonsense": ("0::/\n", SECOND.format("/"), {"cpu.max": "a lot\n"}, 64),
    "a period of nothing": ("4:cpu,cpuacct:/\n", FIRST.format("/"), first("", 100, 0), 64),
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTAS)
def test_a_quota_of_a_control_group_counts_as_cores(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    groups, mounts, files, expected = QUOTAS[name]
    root = make_system(tmp_path, groups=groups, mounts=mounts, files=files)
    assert num_cores(root) == expected


def test_a_system_without_control_groups_has_none(tmp_path: Path):
    assert list(control_groups("cpu", tmp_path)) == []
    assert num_cores(tmp_path) == num_cores(tmp_path / "nowhere") >= 1


# Prints what the library of torch's threads says of itself, which takes a tenth of the time of torch.
OPENMP = """
import ctypes, importlib.util, os, sys
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from vizsla.cores import num_cores, prepare_threads
prepare_threads(Path(sys.argv[2]))
reading, writing = os.pipe()
os.dup2(writing, 2)
os.environ["OMP_DISPLAY_ENV"] = "TRUE"
[library] = Path(importlib.util.find_spec("torch").origin).parent.glob("lib/libgomp*")
threads = ctypes.CDLL(library).omp_get_max_threads()
policy = os.read(reading, 100_000).decode().split("OMP_WAIT_POLICY = ")[1].split()[0]
print(num_cores(), threads, policy)
"""
WITH_TORCH = """
import os, sys
from pathlib import Path
import torch
from vizsla.cores import prepare_threads
prepare_threads(Path(sys.argv[1]))
print(torch.get_num_threads(), os.environ.get("OMP_WAIT_POLICY"))
"""
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="as Linux limits processes"
)


@pytest.fixture
def one_core(tmp_path: Path) -> Path:
    """A system with a quota of a little less than a core."""
    files = {"cpu.max": "90000 100000\n"}
    return make_system(tmp_path, groups="0::/\n", mounts=SECOND.format("/"), files=files)


@on_linux
def test_threads_are_no_more_than_cores_and_sleep_while_they_wait_unless_the_user_decided(
    python: Callable[..., str], one_core: Path
):
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))
    }
    both = str(min(2, num_cores()))
    for cores, root, chosen, expected in (
        (1, "/", {}, ["1", "1", "'PASSIVE'"]),
        (2, one_core, {}, [both, "1", "'PASSIVE'"]),
        (
            2,
            one_core,
            {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"},
            [both, "3", "'ACTIVE'"],
        ),
    ):
        assert python("-c", OPENMP, cores, root, env={**plain, **chosen}).split() == expected


@on_linux
def test_torch_that_is_imported_already_gets_fewer_threads(
    python: Callable[..., str], one_core: Path
):
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))
    }
    assert python("-c", WITH_TORCH, one_core, env=plain).split() == ["1", "None"]
