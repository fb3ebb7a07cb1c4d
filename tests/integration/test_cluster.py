"""torchrun starts the processes of a training, on this machine and on two that are made of network namespaces."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from vizsla.cli.app import app

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cluster"
TRAIN = ("--epochs", "2", "--size", "64", "--bs", "8", "--device", "cpu", "--lr", "1e-3")
SECONDS = 200
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    return draw_folder(tmp_path_factory.mktemp("cluster") / "data")


@pytest.fixture(scope="module")
def alone(data: Path, python: Callable[..., str]) -> Path:
    """The run of one process."""
    out = data.parent / "alone"
    python("-m", "vizsla", "train", data, *TRAIN, "--out", out)
    return out


def torchrun(world: int, *options: object) -> tuple[object, ...]:
    """Return the words for Python that start processes on this machine."""
    # Not with a port of our own: processes that are started again would find the addresses of those before them there.
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", world)
    return (*words, *options, "-m", "vizsla", "train")


def figures(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return {name: metric["value"] for name, metric in metrics.items()}


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def losses(folder: Path) -> list[float]:
    with (folder / "history.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_train_what_one_trains(
    python: Callable[..., str], data: Path, alone: Path, tmp_path: Path, world: int
):
    printed = python(*torchrun(world), data, *TRAIN, "--out", tmp_path / "run")
    assert figures(tmp_path / "run") == pytest.approx(figures(alone), abs=1e-5)
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), abs=1e-4)
    found, expected = predictions(tmp_path / "run"), predictions(alone)
    assert [row["path"] for row in found] == [row["path"] for row in expected]
    for row, known in zip(found, expected, strict=True):
        for name in (name for name in row if name.startswith("prob")):
            assert float(row[name]) == pytest.approx(float(known[name]), abs=1e-4)
    # Said once, by the main process; written once, into one folder.
    assert printed.count("Validation accuracy") == 1
    assert printed.count("end to end") == 2
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == names(alone)


def kill(started: subprocess.Popen[str], *, rank: int) -> None:
    """Kill one of the processes that a torchrun started."""
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    (found,) = (
        int(child)
        for child in children
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text()
    )
    os.kill(found, signal.SIGKILL)


def wait_for(file: Path) -> None:
    until = time.monotonic() + SECONDS
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert file.exists()


OFTEN = ("--resume", "--checkpoint-every", "0.001")
STATE = Path("checkpoint") / "checkpoint.safetensors"


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize(("world", "killed"), [(2, 0), (2, 1), (4, 3)])
def test_a_killed_process_is_started_again_and_the_run_goes_on(
    python: Callable[..., str], data: Path, tmp_path: Path, world: int, killed: int
):
    options = (data, *TRAIN, "--epochs", "8", *OFTEN)
    python(*torchrun(world), *options, "--out", tmp_path / "whole")
    words = (*torchrun(world, "--max-restarts", 1), *options, "--out", tmp_path / "run")
    command = [sys.executable, *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as started:
        wait_for(tmp_path / "run" / STATE)
        kill(started, rank=killed)
        printed, errors = started.communicate(timeout=SECONDS)
        assert started.returncode == 0, errors
    assert "Resuming after step" in printed
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert predictions(tmp_path / "run") == predictions(tmp_path / "whole")
    assert names(tmp_path / "run") == names(tmp_path / "whole")


# --- two machines ----------------------------------------------------------------------------------------------------

MACHINES = ("vizsla-a", "vizsla-b")


def run_ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def namespace(name: str) -> Generator[None]:
    run_ip("netns", "add", name)
    try:
        run_ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        run_ip("netns", "del", name)


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Two network namespaces with a wire between them: their names and addresses."""
    with ExitStack() as held:
        try:
            for name in MACHINES:
                held.enter_context(namespace(name))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        first, second = MACHINES
        run_ip(*f"link add wire netns {first} type veth peer name wire netns {second}".split())
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(MACHINES, start=1)}
        for name, address in addresses.items():
            run_ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            run_ip("-n", name, "link", "set", "wire", "up")
        yield addresses


def on_machine(name: str, *words: object, folder: Path) -> subprocess.Popen[str]:
    """Start Python on one of the machines, in a folder that only it writes to."""
    folder.mkdir(exist_ok=True)
    shell = f"hostname {name} && exec {shlex.join([sys.executable, *map(str, words)])}"
    return subprocess.Popen(
        ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", shell],
        cwd=folder,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "wire", "VIZSLA_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_on(
    machines: dict[str, str], *options: object, data: dict[str, Path], tmp_path: Path
) -> dict[str, subprocess.Popen[str]]:
    """Start a training with one process on each machine, which do not share the folder of the run."""
    first = next(iter(machines.values()))
    return {
        name: on_machine(
            name,
            *("-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:29400", "--rdzv-id", "test"),
            # Names are not resolved here, by which torchrun would know who is the first.
            *("--rdzv-conf", f"is_host={address == first}", "--local-addr", address),
            *("--max-restarts", 2),
            *("-m", "vizsla", "train", data[name], *TRAIN, "--out", "run", *options),
            folder=tmp_path / name,
        )
        for name, address in machines.items()
    }


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("killed", MACHINES)
def test_two_machines_without_a_common_folder_go_on_after_a_kill(
    python: Callable[..., str], machines: dict[str, str], data: Path, tmp_path: Path, killed: str
):
    whole = data.parent / "whole"
    if not whole.exists():
        python(*torchrun(2), data, *TRAIN, "--epochs", "8", "--out", whole)
    options = ("--epochs", "8", *OFTEN, "--cache", "disk")
    everywhere = dict.fromkeys(machines, data)
    started = train_on(machines, *options, data=everywhere, tmp_path=tmp_path)
    try:
        until = time.monotonic() + SECONDS
        states = [tmp_path / name / "run" / STATE for name in machines]
        while not any(state.exists() for state in states) and time.monotonic() < until:
            time.sleep(0.02)
        (rank,) = {int(rank) for rank in ranks_of(started[killed])}
        kill(started[killed], rank=rank)
        results = [each.communicate(timeout=SECONDS) for each in started.values()]
        assert [each.returncode for each in started.values()] == [0, 0], results
    finally:
        for each in started.values():
            each.kill()
    assert "Resuming after step" in "".join(out for out, _ in results)
    (run,) = (
        tmp_path / name / "run"
        for name in machines
        if (tmp_path / name / "run" / "report.html").exists()
    )
    assert figures(run) == figures(whole)
    assert losses(run) == losses(whole)
    assert predictions(run) == predictions(whole)
    for name in machines:  # each has a cache of its own
        assert any((tmp_path / name / "home").rglob("*"))


def ranks_of(started: subprocess.Popen[str]) -> Iterator[str]:
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    for child in children:
        for entry in Path(f"/proc/{child}/environ").read_text().split("\0"):
            if entry.startswith("RANK="):
                yield entry.removeprefix("RANK=")


@pytest.mark.slow
@needs_linux
def test_data_that_differ_between_machines_are_named_with_the_machine(
    machines: dict[str, str], data: Path, tmp_path: Path, draw_folder: Callable[..., Path]
):
    other = draw_folder(tmp_path / "data")
    (other / "disc" / "disc_3.png").unlink()
    copies = dict(zip(machines, (data, other), strict=True))
    started = train_on(machines, "--resume", data=copies, tmp_path=tmp_path)
    for each in started.values():
        _, errors = each.communicate(timeout=SECONDS)
        assert each.returncode != 0
        assert "disc/disc_3.png" in errors
        assert all(name in errors for name in machines)


# --- templates -------------------------------------------------------------------------------------------------------


def check_command(words: list[str]) -> list[str]:
    """Check the words of a torchrun with its own parser and ours; return those that vizsla gets."""
    found = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert found.module
    assert found.training_script == "vizsla"
    assert found.nnodes == "2"
    assert found.max_restarts > 0
    app.parse_args(found.training_script_args, exit_on_error=False, print_error=False)
    assert "--resume" in found.training_script_args  # without it a restart is refused
    return found.training_script_args


def test_the_template_for_slurm_starts_a_training(tmp_path: Path):
    """With stand-ins for the two commands of SLURM; srun prints what it would start."""
    for name, content in (
        ("srun", 'printf "%s\\n" "$@"'),
        ("scontrol", "echo node-1; echo node-2"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{content}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "4",
    }
    done = subprocess.run(
        ["bash", EXAMPLES / "slurm.sh", "/data/pets", "/runs/pets"],
        env=os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[words.index("--rdzv-endpoint") + 1] == "node-1:29400"
    assert check_command(words)[1] == "/data/pets"


def test_the_template_for_kubernetes_starts_a_training():
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = container["command"] + container["args"]
    assert check_command(words)[1] == "/data/pets"
    # The first pod of the job has this name, by the headless service.
    assert (
        f"--rdzv-endpoint={job['metadata']['name']}-0.{service['metadata']['name']}:29400" in words
    )
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
