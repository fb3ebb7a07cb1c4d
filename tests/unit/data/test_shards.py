"""Data in tar shards and at addresses: the same table, the same training as from files; what is wrong is said."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from vizsla import DataError, MissingExtraError, PictureError, get_image_files
from vizsla.data import pack
from vizsla.data.cache import ImageCache
from vizsla.data.images import ImageReader, Resize
from vizsla.data.loading import ImageLoader, rows_of
from vizsla.data.storage import block_folder, open_shard, read_bytes
from vizsla.data.table import resolve_data
from vizsla.types import ImageTable


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path / "home"))


def write_shard(path: Path, contents: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def packed(tmp_path: Path, image_folder: Path) -> Path:
    """``shards/00.tar`` to ``03.tar`` with the images of ``image_folder`` under their names there."""
    files = sorted(image_folder.rglob("*.jpg"))
    for number in range(4):
        some = {
            file.relative_to(image_folder).as_posix(): file.read_bytes()
            for file in files[number::4]
        }
        write_shard(tmp_path / "shards" / f"{number:02}.tar", some)
    return tmp_path / "shards"


def labels_of(table: ImageTable) -> dict[str, str]:
    return {Path(table.shown_path(row)).name: table.label(row) for row in range(len(table.paths))}


def test_every_way_to_name_shards_gives_the_same_images(packed: Path, image_folder: Path):
    of_files = labels_of(resolve_data(image_folder, seed=0))
    for data in (packed, packed / "{00..03}.tar", packed / "*.tar", packed / "0{0,1,2,3}.tar"):
        table = resolve_data(data, seed=0)
        assert labels_of(table) == of_files
        assert list(table.paths) == get_image_files(data)
        assert table.root == packed
    one = resolve_data(packed / "00.tar", seed=0)
    assert one.shown_path(0) == "cross/cross_0.jpg"
    (packed / "beside.jpg").write_bytes(b"")  # images win, and the shards are named as left out
    assert get_image_files(packed) == [packed / "beside.jpg"]


def test_labels_come_from_files_beside_the_images(tmp_path: Path, image_folder: Path):
    files = sorted(image_folder.rglob("*.jpg"))
    contents: dict[str, bytes] = {}
    for number, file in enumerate(files):
        about = {"label": file.parent.name, "size": ["s", "l"][number % 2]}
        contents |= {
            f"{number:04}.jpg": file.read_bytes(),
            f"{number:04}.cls": str(int(file.parent.name == "disc")).encode(),
            f"{number:04}.json": json.dumps(about).encode(),
        }
    shard = write_shard(tmp_path / "s" / "0.tar", contents)
    by_label = {
        labels: resolve_data(shard, labels=labels, seed=0)
        for labels in ("auto", "cls", "json:label", "json:size")
    }
    assert [table.vocab for table in by_label.values()] == [
        ("0", "1"),
        ("0", "1"),
        ("cross", "disc"),
        ("l", "s"),
    ]
    assert by_label["cls"].class_type == "int"
    (shard.parent / "classes.txt").write_text("a cross\na disc\n")
    assert resolve_data(shard, seed=0).vocab == ("a cross", "a disc")
    (shard.parent / "classes.txt").write_text("a cross\n")
    with pytest.raises(DataError, match=r"classes\.txt"):
        resolve_data(shard, seed=0)
    (shard.parent / "classes.txt").unlink()
    with pytest.raises(DataError, match="colour"):
        resolve_data(shard, labels="json:colour", seed=0)
    del contents["0000.cls"], contents["0001.json"]
    write_shard(shard, contents)
    for labels, image in (("cls", "0000.jpg"), ("json:label", "0001.jpg")):
        with pytest.raises(DataError, match=image):
            resolve_data(shard, labels=labels, seed=0)


def test_shards_named_as_a_split_are_one(tmp_path: Path, image_folder: Path):
    files = sorted(image_folder.rglob("*.jpg"))
    for form in ("{}/0.tar", "pets-{}-000.tar"):
        for number, split in enumerate(("train", "val", "test")):
            some = {
                f"{file.parent.name}/{file.name}": file.read_bytes() for file in files[number::3]
            }
            write_shard(tmp_path / form[:3] / form.format(split), some)
        table = resolve_data(tmp_path / form[:3], seed=0)
        assert (len(table.train_rows), len(table.valid_rows), len(table.paths)) == (8, 8, 24)
        assert table.vocab == ("cross", "disc")


def test_what_is_wrong_with_shards_is_said_of_all_at_once(packed: Path):
    with pytest.raises(DataError) as caught:
        resolve_data(packed / "{00..06}.tar", seed=0)
    assert all(f"{number:02}.tar" in str(caught.value) for number in (4, 5, 6))
    for number in (1, 2):
        shard = packed / f"{number:02}.tar"
        shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DataError) as caught:
        resolve_data(packed, seed=0)
    assert "01.tar" in str(caught.value)
    assert "02.tar" in str(caught.value)
    assert "00.tar" not in str(caught.value)


def test_an_epoch_of_shards_is_the_same_for_any_number_of_processes(packed: Path):
    """Also where each process has listed and indexed the shards itself, and where it begins in the middle."""
    table, orders = resolve_data(packed, seed=0), list[list[tuple[int, str]]]()
    for world, start in ((1, 0), (2, 0), (4, 0), (4, 1)):
        plans: list[tuple[torch.Tensor, ...]] = []
        for rank in range(world):
            own = resolve_data(packed, seed=0)
            reader = ImageReader(resize=Resize(32), cache=ImageCache(mode="off"))
            loader = ImageLoader(own, own.train_rows, reader=reader, batch_size=8, training=True, seed=3)  # fmt: skip
            assert [*own.paths] == [*table.paths]
            plans.append(loader.plan(epoch=2, start=start, share=(rank, world)))
        rows = torch.cat([part for batch in zip(*plans, strict=True) for part in batch])
        orders.append([(row, table.shown_path(row)) for row in rows_of(rows).tolist()])
    assert orders[0] == orders[1] == orders[2] == orders[0][:8] + orders[3]
    assert sorted(row for row, _ in orders[0]) == sorted(table.train_rows.tolist())


def test_training_on_shards_is_training_on_files(
    packed: Path, image_folder: Path, tmp_path: Path, vizsla: Callable[..., Any]
):
    """With one shard, images come in the order of the files: the losses are the same bit for bit."""
    files = sorted(image_folder.rglob("*.jpg"))
    whole = write_shard(tmp_path / "whole.tar", {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files})  # fmt: skip
    options = ("--size", "32", "--epochs", "1", "--bs", "8", "--seed", "1")
    for data, out in ((image_folder, "of-files"), (whole, "of-shard")):
        done = vizsla("train", str(data), *options, "--out", str(tmp_path / out))
        assert done.code == 0, done.err

    def history(name: str) -> list[list[str]]:
        lines = (tmp_path / name / "history.csv").read_text().splitlines()
        return [line.split(",")[:5] for line in lines]

    assert history("of-files") == history("of-shard")
    run = str(tmp_path / "of-shard")
    for words in (("check", str(packed)), ("evaluate", run, str(packed), "--part", "all"), ("predict", run, str(packed), str(whole / "cross" / "cross_0.jpg")), ("report", run)):  # fmt: skip
        done = vizsla(*words)
        assert done.code == 0, (words, done.err)


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class RangeHandler(SimpleHTTPRequestHandler):
    """Sends parts of files, and says 403 where the name is secret."""

    def do_GET(self) -> None:
        self.server.num_requests += 1  # type: ignore[attr-defined]
        if "secret" in self.path or self.server.num_requests > self.server.most_requests:  # type: ignore[attr-defined]
            self.send_error(403)
            return
        file, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if asked is None or not file.is_file():
            super().do_GET()
            return
        first, last = asked.removeprefix("bytes=").split("-")
        data = file.read_bytes()[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def http(tmp_path: Path) -> Iterator[tuple[str, ThreadingHTTPServer]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(tmp_path)))
    server.num_requests, server.most_requests = 0, 1_000  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server
    server.shutdown()
    thread.join()
    server.server_close()


def test_shards_and_folders_on_a_web_server_are_read(
    packed: Path, image_folder: Path, http: tuple[str, ThreadingHTTPServer]
):
    address, server = http
    of_files = labels_of(resolve_data(image_folder, seed=0))
    for data in (f"{address}/shards/{{00..03}}.tar", f"{address}/shards", f"{address}/pictures"):
        table = resolve_data(data, seed=0)
        assert labels_of(table) == of_files
        assert read_bytes(table.file(0)) == read_bytes(image_folder / "cross" / "cross_0.jpg")
    asked = server.num_requests  # type: ignore[attr-defined]
    images = get_image_files(f"{address}/shards/{{00..03}}.tar")
    for image in images:
        read_bytes(image)
    assert server.num_requests == asked  # type: ignore[attr-defined] (from blocks on disk)
    assert len(list(block_folder().iterdir())) >= 4


def test_an_address_that_cannot_be_read_is_an_error_that_stops(
    packed: Path, http: tuple[str, ThreadingHTTPServer], monkeypatch: pytest.MonkeyPatch
):
    address, _ = http
    with pytest.raises(DataError, match=r"04\.tar"):
        resolve_data(f"{address}/shards/{{00..04}}.tar", seed=0)
    (packed / "01.tar").write_bytes((packed / "01.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"01\.tar.*cut off"):
        resolve_data(f"{address}/shards", seed=0)
    with pytest.raises(DataError, match="refused"):
        open_shard(f"{address}/shards/secret.tar")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match="gcsfs"):
        resolve_data("gs://bucket/{0..3}.tar", seed=0)


def test_access_that_is_lost_in_the_middle_is_said_once_and_loses_nothing(
    packed: Path, image_folder: Path, tmp_path: Path, http: tuple[str, ThreadingHTTPServer]
):
    address, server = http
    table = resolve_data(f"{address}/{image_folder.name}", seed=0)
    server.most_requests = server.num_requests + 16  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="refused") as caught:
        pack(table, tmp_path / "out", shard_mb=0.01, num_workers=1, on_bad="skip")
    assert not isinstance(caught.value, PictureError)  # it is not one image that is left out
    with pytest.raises(DataError, match="refused") as caught:
        resolve_data(f"{address}/shards/{{00..03}}.tar", seed=0)
    assert str(caught.value).count("refused") == 1
    server.most_requests = 1_000  # type: ignore[attr-defined]
    done = pack(table, tmp_path / "out", shard_mb=0.01, num_workers=1)
    assert 0 < done.num_kept < done.num_shards
    assert done.num_images == len(table.paths)


@pytest.mark.slow
def test_training_from_s3_is_training_from_files(
    packed: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vizsla: Callable[..., Any],
):
    """A stand-in for S3 on this machine; it takes seconds to start."""
    import boto3
    from moto.core.authorization import ActionAuthenticatorMixin
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "any"),
        ("AWS_SECRET_ACCESS_KEY", "any"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="pets")
        for file in (*packed.iterdir(), *image_folder.rglob("*.jpg")):
            client.upload_file(str(file), "pets", file.relative_to(tmp_path).as_posix())
        options = ("--size", "32", "--epochs", "1", "--bs", "8")
        losses: list[list[list[str]]] = []
        for data in (
            packed / "{00..03}.tar",
            "s3://pets/shards/{00..03}.tar",
            "s3://pets/shards/*.tar",
        ):
            out = tmp_path / f"run-{len(losses)}"
            done = vizsla("train", str(data), *options, "--out", str(out))
            assert done.code == 0, done.err
            losses.append([line.rpartition(",")[0].split(",")[:5] for line in (out / "history.csv").read_text().splitlines()])  # fmt: skip
        assert losses[0] == losses[1] == losses[2]
        assert labels_of(resolve_data("s3://pets/pictures", seed=0)) == labels_of(resolve_data(image_folder, seed=0))  # fmt: skip
        with pytest.raises(DataError, match="04"):
            resolve_data("s3://pets/shards/{00..04}.tar", seed=0)
        # The keys stop working after some images, and are those of nobody to begin with.
        words = ("predict", str(tmp_path / "run-0"), "s3://pets/pictures", "--bs", "4", "--workers", "1", "--csv")  # fmt: skip
        assert vizsla(*words, str(tmp_path / "whole.csv")).code == 0
        shutil.rmtree(block_folder())
        for num_requests in (18, 0):
            monkeypatch.setattr(ActionAuthenticatorMixin, "request_count", 0)
            monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", num_requests)
            done = vizsla(*words, str(tmp_path / "said.csv"), "--resume")
            assert done.code == 2
            assert "refused" in done.err
        monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))
        assert vizsla(*words, str(tmp_path / "said.csv"), "--resume").code == 0
        assert (tmp_path / "said.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    finally:
        server.stop()
