"""Ray gives the rows that this process gives: in the same files, after a stop, and when its processes die.

One session of Ray, of two actors with a thread each, serves all tests that need one; it takes about 5 s to start, and each command
another 5 s, in which its actors open the model. So those tests are slow.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from vizsla import ConfigError, MissingExtraError, ModelFileError, Predictor, Resize
from vizsla.integrations.ray import predict_dataset, ray_engine
from vizsla.model_file import save_bundle
from vizsla.predict import Engine, Format, PathSource, PredictOptions, write_predictions

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
# Warnings of Ray's own code, and sockets that it leaves to the garbage collector.
ignored = pytest.mark.filterwarnings("ignore:::ray", "ignore::ResourceWarning", "ignore::DeprecationWarning")  # fmt: skip
OPTIONS = PredictOptions(device="cpu", num_workers=1, batch_size=4)


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, vizsla: Callable[..., Any], tmp_path: Path
):
    find_spec = importlib.util.find_spec
    for missing in ("ray", "pyarrow"):
        monkeypatch.setattr("vizsla.integrations.ray.find_spec", lambda name: None if name == missing else find_spec(name))  # fmt: skip  # noqa: B023
        with pytest.raises(MissingExtraError, match=r"pip install 'ray\[data\]'"), ray_engine():
            pass
        with pytest.raises(MissingExtraError):
            predict_dataset(None, tmp_path / "m")  # pyright: ignore[reportArgumentType]


def test_words_that_make_no_sense_are_refused_first(vizsla: Callable[..., Any], tmp_path: Path):
    (tmp_path / "a.png").touch()
    for words, said in (
        (("--address", "auto"), "--engine ray"),
        (("--actors", 2), "--engine ray"),
        (("--engine", "ray", "--sort-to", tmp_path / "sorted"), "--sort-to"),
    ):
        done = vizsla("predict", tmp_path / "none", tmp_path, *words)
        assert (done.code, done.out) == (2, "")
        assert said in done.err


@needs_ray
@ignored
def test_an_address_where_nobody_listens_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    for address in (closed, f"ray://{closed}", "nonsense"):
        with pytest.raises(ConfigError, match=f"'{address}'"), ray_engine(address=address):
            pass


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, make_classifier: Any, make_calibration: Any
) -> Path:
    return save_bundle(
        tmp_path_factory.mktemp("ray") / "model.safetensors",
        classifier=make_classifier(("a", "b\r", 'c,"')),
        resize=Resize(32),
        calibration=make_calibration(
            temperature=2.0, thresholds=(0.4, 0.1), quantiles=(-1.0, 0.0, 1.0), foreign_below=-0.9
        ),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, draw: Any) -> Path:
    """A folder of 49 images and one that is none, with names that CSV must quote or that are not Unicode."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(48):
        draw("cross" if number % 2 else "disc", number=number).save(folder / f"{number:02}.png")
    draw("disc", number=99).save(os.path.join(os.fsencode(folder), b'co,mma"\xff.png').decode("utf-8", "surrogateescape"))  # fmt: skip  # noqa: PTH118
    (folder / "broken.png").write_text("Dear diary")
    return folder


@pytest.fixture(scope="module")
def engine() -> Generator[Engine]:
    if not HAS_RAY:
        pytest.skip("Ray is not installed")
    with ray_engine(num_actors=2) as engine:
        yield engine


@pytest.mark.slow
@ignored
def test_files_are_those_of_the_local_command_byte_for_byte(
    engine: Engine, vizsla: Callable[..., Any], model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.chdir(images.parent)  # Paths are relative, and the processes of Ray find them.
    for command, option, name in (
        ("predict", "--csv", "said.csv"),
        ("predict", "--jsonl", "said.jsonl"),
        ("predict", "--parquet", "said.parquet"),
        ("embed", "--out", "features.npz"),
        ("embed", "--out", "features.parquet"),
    ):
        words = (command, model, images.name, "--bs", 4, "--device", "cpu", option)
        extra = ("--coverage", 0.9, "--tta", 2) if command == "predict" else ()
        local, by_ray = tmp_path / name, tmp_path / f"ray-{name}"
        said = vizsla(*words, local, *extra)
        done = vizsla(*words, by_ray, *extra, "--engine", "ray", "--actors", 2)
        assert (said.code, done.code) == (2, 2)
        assert "1 image" in done.err
        assert by_ray.read_bytes() == local.read_bytes(), name
        assert not [path for path in tmp_path.iterdir() if ".part" in path.name]


class StoppedError(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.slow
@ignored
def test_a_stopped_run_goes_on_with_and_without_ray(
    engine: Engine, model: Path, images: Path, tmp_path: Path, make_classifier: Any
):
    def stop(done: int) -> None:
        if done == 21:
            raise StoppedError

    def write(file: Path, model: Path = model, **how: Any) -> Any:
        source = PathSource(paths=[how.pop("source", images)])
        return write_predictions(model, source, file=file, form=Format.json, options=OPTIONS, **how)

    write(tmp_path / "whole")
    other = save_bundle(
        tmp_path / "m.safetensors", classifier=make_classifier(("a", "b")), resize=Resize(32)
    )
    for first, second in ((ray_engine, ray_engine), (ray_engine, None), (None, ray_engine)):
        file = tmp_path / "file"
        with pytest.raises(StoppedError):
            write(file, engine=first and first(num_actors=2), on_progress=stop)
        with pytest.raises(ConfigError, match="model was"):
            write(file, other, resume=True, engine=second and second(num_actors=2))
        with pytest.raises(ConfigError, match="Row 1 "):
            write(file, source=images / "47.png", resume=True, engine=second and second(num_actors=2))  # fmt: skip
        done = write(file, resume=True, engine=second and second(num_actors=2))
        assert (done.num_before, done.num_images, done.num_failed) == (20, 30, 1)
        assert file.read_bytes() == (tmp_path / "whole").read_bytes()
        file.unlink()


def descendants(pid: int) -> Generator[int]:
    with contextlib.suppress(OSError):  # It has ended.
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from descendants(child)


def workers_of(pid: int) -> list[int]:
    """Return the processes below one that have a model open."""
    return [each for each in descendants(pid) if b"MapWorker" in Path(f"/proc/{each}/cmdline").read_bytes()]  # fmt: skip


def addresses(pid: int) -> set[str]:
    """Return where a process listens, as ``/proc/net`` writes it: 0100007F is 127.0.0.1."""
    own = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]  # fmt: skip
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@ignored
def test_images_of_a_process_that_dies_are_predicted_by_another(
    engine: Engine, model: Path, images: Path
):
    paths = sorted(map(str, images.glob("[0-9]*.png"))) * 40
    predictor, killed = Predictor.load(model, device="cpu"), list[int]()
    rows: list[dict[str, Any]] = []
    with pytest.warns(UserWarning, match="1 process of Ray died"):  # noqa: PT031
        for row in engine.rows(predictor, paths, OPTIONS):
            rows.append(row)
            if len(rows) == 100:
                killed += workers_of(os.getpid())[:1]
                os.kill(killed[0], signal.SIGKILL)
    assert killed
    assert [row["path"] for row in rows] == paths
    again = {row["path"]: row["probabilities"] for row in rows[:48]}
    assert all(row["probabilities"] == again[row["path"]] for row in rows)


@pytest.mark.slow
@ignored
def test_a_model_that_the_processes_cannot_see_is_named(engine: Engine, model: Path, images: Path):
    moved = model.with_name("moved.safetensors")
    moved.write_bytes(model.read_bytes())
    predictor = Predictor.load(moved, device="cpu")
    moved.unlink()
    with pytest.raises(ModelFileError, match=re.escape(str(moved))):
        list(engine.rows(predictor, [str(images / "01.png")], OPTIONS))
    sent = Predictor.load(model.read_bytes(), device="cpu")
    (row,) = engine.rows(sent, [str(images / "01.png")], OPTIONS)
    assert row["prediction"] in sent.vocab


@pytest.mark.slow
@ignored
def test_there_are_no_more_processes_than_cores(engine: Engine):
    for wrong in (0, 10_000):
        with pytest.raises(ConfigError, match=f"--actors.*{wrong}"), ray_engine(num_actors=wrong):
            pass


@pytest.mark.slow
@ignored
def test_a_dataset_gets_columns(engine: Engine, model: Path, images: Path, tmp_path: Path):
    import pyarrow.parquet as parquet
    import ray

    names = ["01.png", "broken.png", "02.png"]
    write_predictions(
        model,
        PathSource(paths=[images / name for name in names]),
        file=tmp_path / "local.parquet",
        form=Format.parquet,
        options=OPTIONS,
    )
    expected = parquet.read_table(tmp_path / "local.parquet").drop_columns(["path"])
    rows = [{"number": n, "path": str(images / name), "image": (images / name).read_bytes()} for n, name in enumerate(names)]  # fmt: skip
    dataset = ray.data.from_items(rows, override_num_blocks=1)
    for column in ("path", "image"):
        said = predict_dataset(dataset, model, column=column, num_actors=1).take_all()
        assert list(said[0]) == ["number", "path", "image", *expected.column_names]
        for name in expected.column_names:
            assert [row[name] for row in said] == expected[name].to_pylist()
    features = predict_dataset(dataset, model, features="body", num_actors=1).take_all()
    assert [row["features"] is None for row in features] == [False, True, False]
    for wrong, column, words in (
        (dataset, "nothing", "no column 'nothing'"),
        (dataset.rename_columns({"number": "prediction"}), "path", "prediction.* Rename"),
    ):
        with pytest.raises(Exception, match=words):
            predict_dataset(wrong, model, column=column, num_actors=1).take_all()


@pytest.mark.slow
@needs_ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_starts_ray_quietly_on_this_machine_alone(
    model: Path, images: Path, tmp_path: Path
):
    before = set(Path("/tmp").glob("ray*"))
    words = ["predict", model, *sorted(images.glob("[0-9]*.png")) * 100, "--csv", tmp_path / "said.csv", "--engine", "ray", "--actors", "1"]  # fmt: skip
    command = [sys.executable, "-m", "vizsla", *map(str, words)]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:  # fmt: skip
        while process.poll() is None and not workers_of(process.pid):
            time.sleep(0.1)
        listening = set[str]().union(*map(addresses, [process.pid, *descendants(process.pid)]))
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == ""
    assert re.fullmatch(r".*said\.csv: 4,800 images in .*\n", err)
    assert listening
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert set(Path("/tmp").glob("ray*")) <= before
