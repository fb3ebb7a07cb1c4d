"""Downloads are images, whole and safely named, and what could not be had is named; resizing replaces nothing; golden: fastai."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vizsla.data.download as download
from vizsla import (
    ConfigError,
    DataError,
    OutputError,
    PictureError,
    download_images,
    download_url,
    get_image_files,
    resize_images,
    verify_image,
    verify_images,
)
from vizsla.notebook import resize_image, safe_name, search_images_ddg

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "notebook_helpers.json").read_text("utf-8")
)


def draw_golden(folder: Path) -> Path:
    """Write the images that fastai was given, and a file that is none."""
    folder.mkdir(exist_ok=True)
    for number, (name, (width, height)) in enumerate(GOLDEN["images"].items()):
        image = Image.open(io.BytesIO(png(number, (height, width))))
        (image.convert("L") if name == "grey.png" else image).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"<html>no image</html>")
    return folder


def png(seed: int = 0, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.01, 0.01))


def opened(path: Path | str) -> Image.Image:
    return Image.open(io.BytesIO(Path(path).read_bytes()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_downloads_are_those_of_fastai(web, here: Path, capsys: pytest.CaptureFixture[str]):
    golden = GOLDEN["download_images"]
    draw_golden(here / "server")
    web.files = {f"/{name}": (here / "server" / name).read_bytes() for name in names(here / "server")}  # fmt: skip
    urls = [f"{web.address}/{name}" for name in [*names(here / "server"), "none.png"]]
    for attempt in range(2):
        web.asked.clear()
        assert download_images("new/by_digest", urls=urls) is golden["returned"]
        assert sorted(path.suffix for path in Path("new/by_digest").iterdir()) == golden["suffixes"]
        printed = capsys.readouterr().out
        assert f"{web.address}/none.png" in printed
        assert "404" in printed
        assert f"{web.address}/broken.jpg" in printed
        # A second call asks only for what is missing.
        assert len({path for path, _ in web.asked}) == (2 if attempt else len(urls))
    download_images(here / "kept", urls=iter(urls), preserve_filename=True)
    assert names(here / "kept") == golden["names"]
    Path("urls.txt").write_text("\n".join([*urls[1:], "", urls[1]]))
    download_images(Path("two"), Path("urls.txt"), max_pics=2)
    assert len(names(here / "two")) == golden["max_pics_2"]


def test_names_are_safe_and_nothing_is_overwritten(web, tmp_path: Path):
    hostile = ("/..%2F..%2Fup.png", "/.hidden.png", "/con.png", "/a%00%0a%1bb.png", f"/{'x' * 300}.png", "/é 犬.png")  # fmt: skip
    for number, path in enumerate(("/1/cat.png", "/2/cat.png", "/3/cat.png", "/dog.php", *hostile)):
        web.files[path.replace("é 犬", "%C3%A9%20%E7%8A%AC")] = png(number)
    web.files["/3/cat.png"] = web.files["/1/cat.png"]
    web.files["/dog.php"] = png(3, kind="JPEG")
    (tmp_path / "cat.png").write_bytes(b"mine")
    urls = [web.address + path for path in ("/1/cat.png", "/2/cat.png", "/3/cat.png", "/dog.php", *hostile)]  # fmt: skip
    for _ in range(2):
        download_images(tmp_path, urls=urls, preserve_filename=True, n_workers=0)
        assert (tmp_path / "cat.png").read_bytes() == b"mine"
        assert names(tmp_path) == sorted([
            *("cat.png", "cat1.png", "cat2.png", "dog.jpg"),
            *("up.png", "hidden.png", "_con.png", "a___b.png", f"{'x' * 100}.png", "é 犬.png"),
        ])  # fmt: skip
    assert {safe_name(f"http://a/{path}") for path in ("", "..", "%2e%2e%2f", "a/")} == {"file"}


def test_what_is_no_image_or_too_much_is_not_kept(web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # fmt: skip
    monkeypatch.setattr("vizsla.notebook.image_files.MOST_BYTES", 5_000)
    cut = png(1, (40, 40))[:2000]
    web.files = {"/fine.png": png(), "/cut.png": cut, "/large.png": png(2, (90, 90)), "/page.jpg": b"<html>"}  # fmt: skip
    urls = [f"{web.address}{path}" for path in web.files]
    bad = [*urls[1:], "ftp://a/b.png", "http://[", "not an address", "http://127.0.0.1:9/no.png", "http://127.0.0.1:99999/no.png"]  # fmt: skip
    for announced in (True, False):
        web.announce_length = announced
        download_images(tmp_path / "a", urls=[urls[0], *bad])
        assert len(names(tmp_path / "a")) == 1
        printed = capsys.readouterr().out
        assert all(url in printed for url in bad), printed
    with pytest.raises(DataError) as error:
        download_images(tmp_path / "b", urls=bad)
    assert all(url in str(error.value) for url in bad)
    assert names(tmp_path / "b") == []


def test_a_failing_server_is_asked_again_and_a_slow_one_is_left(web, tmp_path: Path):
    web.files["/a.png"] = png(0, (300, 300))
    web.statuses, web.drops = [503], [1000]
    download_images(tmp_path, urls=f"{web.address}/a.png")
    assert [asked for _, asked in web.asked] == [None, None, "bytes=1000-"]
    web.asked.clear()
    web.hold.clear()
    with pytest.raises(DataError, match="timed out"):
        download_images(tmp_path, urls=[f"{web.address}/b.png"], timeout=0.05)
    assert len(web.asked) == 2
    web.hold.set()


def test_download_images_refuses_what_cannot_work(tmp_path: Path):
    (tmp_path / "urls.txt").touch()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    cases: list[tuple[type[Exception], dict[str, Any], str]] = [
        (ConfigError, {}, "url_file"),
        (ConfigError, {"urls": ["http://a"], "url_file": "b"}, "url_file"),
        (ConfigError, {"urls": [1]}, "1"),
        (ConfigError, {"urls": ["http://a"], "timeout": 0}, "timeout=0"),
        (ConfigError, {"url_file": tmp_path}, "download_images\\(dest, url_file\\)"),
        (DataError, {"url_file": tmp_path / "none.txt"}, "none.txt"),
        (DataError, {"url_file": tmp_path / "bytes.txt"}, "bytes.txt"),
        (DataError, {"url_file": str(tmp_path / "urls.txt")}, "no addresses"),
        (DataError, {"urls": []}, "no addresses"),
    ]
    for error, arguments, words in cases:
        with pytest.raises(error, match=words):
            download_images(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_one_file_is_downloaded_whole_and_an_older_one_is_kept(web, here: Path):
    web.files = {"/a/bird.jpg": b"one", "/b.bin": b"two"}
    assert download_url(f"{web.address}/a/bird.jpg", show_progress=False) == Path("bird.jpg")
    assert download_url(f"{web.address}/a/bird.jpg", "new/x.jpg") == Path("new/x.jpg")
    assert download_url((here / "bird.jpg").as_uri(), here / "new") == here / "new" / "bird.jpg"
    for _ in range(2):  # the same file is nothing new
        download_url(f"{web.address}/b.bin", "bird.jpg")
        assert Path("bird.jpg").read_bytes() == b"two"
        assert Path("bird1.jpg").read_bytes() == b"one"
    with pytest.raises(DataError, match="404"):
        download_url(f"{web.address}/none.jpg", "bird.jpg", timeout=5)
    with pytest.raises(OutputError):
        download_url(f"{web.address}/b.bin", "bird.jpg/x")
    assert names(here) == ["bird.jpg", "bird1.jpg", "new"]


def test_sizes_and_modes_are_those_of_fastai(here: Path, capsys: pytest.CaptureFixture[str]):
    source = draw_golden(here / "images")
    before = {path.name: path.read_bytes() for path in source.iterdir()}

    def found(folder: Path) -> dict[str, Any]:
        images = {path.name: opened(path) for path in sorted(folder.iterdir())}
        return {name: [list(image.size), image.mode] for name, image in images.items()}

    resize_images(source, max_size=32, dest="small")
    assert found(Path("small")) == GOLDEN["resize_images_32"]
    assert "broken.jpg" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in source.iterdir()}
    assert Path("small/small.png").read_bytes() == before["small.png"]
    # Files that are there stay, unless asked otherwise.
    Path("small/wide.png").write_bytes(b"mine")
    resize_images(source, max_size=16, dest="small")
    assert Path("small/wide.png").read_bytes() == b"mine"
    resize_images(source, max_size=16, dest="small", resume=False, max_workers=0)
    assert opened("small/wide.png").size == (16, 12)
    (source / "broken.jpg").unlink()
    resize_images(source, max_size=32, dest=source)  # in place
    assert found(source) == GOLDEN["resize_images_32"]


def test_sub_folders_suffixes_channels_and_orientation(here: Path, make_image):
    make_image("data/cats/1.png", size=(20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    Image.new("RGBA", (40, 20)).save(here / "data" / "2.png", exif=exif)
    for _ in range(2):  # results below the source are no sources
        resize_images("data", max_size=10, recurse=True, dest="data/small", ext=".jpg", quality=95)
        assert {str(path) for path in get_image_files("data/small")} == {"data/small/2.jpg", "data/small/cats/1.jpg"}  # fmt: skip
    upright = opened("data/small/2.jpg")
    assert (upright.size, upright.getpixel((0, 0))) == ((5, 10), (255, 255, 255))
    resize_image("cats/1.png", "grey", src="data", n_channels=1)
    assert (opened("grey/cats/1.png").mode, opened("grey/cats/1.png").size) == ("L", (40, 20))  # fmt: skip


def test_resize_refuses_what_cannot_work(tmp_path: Path, make_image):
    image = make_image("a/1.png")
    (tmp_path / "b.png").write_bytes(b"no")
    cases: list[tuple[type[Exception], dict[str, Any], str]] = [
        (ConfigError, {"n_channels": 4}, "n_channels=4"),
        (ConfigError, {"max_size": 0}, "max_size=0"),
        (ConfigError, {"max_workers": -1}, "max_workers"),
        (DataError, {"ext": ".xyz"}, ".xyz"),
    ]
    for error, arguments, words in cases:
        with pytest.raises(error, match=words):
            resize_images(image.parent, dest=tmp_path / "new", **arguments)
    for error, file, dest in (
        (PictureError, "b.png", tmp_path / "new"),
        (PictureError, "none.png", tmp_path / "new"),
        (OutputError, "a/1.png", tmp_path / "b.png"),
    ):
        with pytest.raises(error):
            resize_image(file, dest, src=tmp_path)
    with pytest.raises(DataError, match="none"):
        resize_images(tmp_path / "none")


def test_broken_images_are_found(tmp_path: Path):
    files = sorted(draw_golden(tmp_path).iterdir())
    failed = verify_images(files)
    assert [Path(path).name for path in failed] == GOLDEN["verify_images"]
    assert [path for path in files if not verify_image(path)] == list(failed)
    failed.map(Path.unlink)
    assert verify_images(get_image_files(tmp_path)) == []
    with pytest.raises(ConfigError, match="get_image_files"):
        verify_images(tmp_path)  # pyright: ignore[reportArgumentType]


def test_searches_say_what_to_run_instead():
    with pytest.raises(ConfigError, match="ddgs") as error:
        search_images_ddg("SECRET-KEY", "grizzly bear", max_images=9)
    assert "SECRET" not in str(error.value)
