"""16-bit images whose values use fewer bits: one depth for a data set, from the loaders to the model file."""

from __future__ import annotations

import json
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vizsla import ConfigError, DataError, PictureError, Resize
from vizsla.cli.app import app
from vizsla.data.cache import ImageCache
from vizsla.data.images import (
    ImageReader,
    decide_bit_depth,
    decode_image,
    guess_bit_depth,
    to_rgb,
    wide_maximum,
)
from vizsla.data.loading import DataLoaders
from vizsla.data.table import resolve_data
from vizsla.model_file import read_manifest, save_bundle
from vizsla.predict import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vizsla.models import Classifier

HEIGHT, WIDTH = 6, 9
LARGEST = 4095


def ramp(bands: int, *, largest: int = LARGEST) -> NDArray[np.uint16]:
    """Values from 0 to ``largest``, (H, W, C)."""
    values = np.arange(HEIGHT * WIDTH * bands).reshape(HEIGHT, WIDTH, bands) ** 2.0
    return np.rint(values / values.max() * largest).astype(np.uint16)


def png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16-bit values (H, W, C): grey, grey and alpha, RGB, RGBA. Pillow writes the first only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, bands = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(values: NDArray[np.uint16], *, order: str, planar: bool = False) -> bytes:
    """An uncompressed TIFF of 16-bit values (H, W, C): grey, RGB, RGBA or CMYK."""
    height, width, bands = values.shape
    parts = [values[..., band] for band in range(bands)] if planar else [values]
    strips = [np.ascontiguousarray(part).astype(f"{order}u2").tobytes() for part in parts]
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {
        **{256: [width], 257: [height], 258: [16] * bands, 259: [1], 262: [1 if bands == 1 else 2]},
        **{273: starts, 277: [bands], 278: [height], 279: list(map(len, strips))},
        **{284: [2 if planar else 1]},
        **({338: [2]} if bands == 4 else {}),
    }
    at = 8 + sum(map(len, strips))
    directory, behind = struct.pack(f"{order}H", len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            place = at + 2 + 12 * len(tags) + 4 + len(behind)
            content, behind = struct.pack(f"{order}I", place), behind + content
        directory += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + content
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    return start + b"".join(strips) + directory + bytes(4) + behind


def as_bytes(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def pnm(values: NDArray[np.uint16], *, largest: int) -> bytes:
    kind = "P5" if values.shape[2] == 1 else "P6"
    return f"{kind} {WIDTH} {HEIGHT} {largest}\n".encode() + values.astype(">u2").tobytes()


def opaque(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Values whose last band, the alpha, is the largest value."""
    values = values.copy()
    values[..., -1] = values.max()
    return values


def write_set(folder: Path, largest: dict[str, int], *, names: str = "ab") -> Path:
    """A folder of two classes; each image is grey of 16 bits with this largest value."""
    for name, value in largest.items():
        for label in names:
            path = folder / label / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            number = value - (label == "b")
            Image.fromarray(ramp(1, largest=number)[..., 0]).save(path)
    return folder


TWELVE = {str(number): 3000 + 100 * number for number in range(8)}


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_file_is_scaled_by_the_depth():
    grey, colours, four = ramp(1), ramp(3), opaque(ramp(4))
    cases: dict[str, tuple[bytes, NDArray[np.uint16]]] = {
        "PNG, grey": (png(grey), grey),
        "PNG, grey and alpha": (png(opaque(ramp(2))), opaque(ramp(2))[..., :1]),
        "PNG, RGB": (png(colours), colours),
        "PNG, RGBA": (png(four), four[..., :3]),
        "PGM": (pnm(grey, largest=65535), grey),
        "PPM": (pnm(colours, largest=65535), colours),
        "JPEG 2000": (as_bytes(Image.fromarray(grey[..., 0]), format="JPEG2000"), grey),
    }
    for order in "<>":
        cases[f"TIFF {order}, grey"] = (tiff(grey, order=order), grey)
        for planar in (False, True):
            cases[f"TIFF {order}, RGB, {planar}"] = (tiff(colours, order=order, planar=planar), colours)  # fmt: skip
            cases[f"TIFF {order}, RGBA, {planar}"] = (tiff(four, order=order, planar=planar), four[..., :3])  # fmt: skip
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        image = Image.fromarray(grey[..., 0])
        cases[compression] = (as_bytes(image, format="TIFF", compression=compression), grey)
    for name, (data, values) in cases.items():
        expected = np.rint(values / LARGEST * 255).astype(np.uint8)
        found = np.asarray(decode_image(data, bit_depth=12))
        assert np.array_equal(found, np.broadcast_to(expected, found.shape)), name
        # Without a depth all 16 bits count, and the largest value is told, or its upper byte.
        noted: list[int] = []
        full = np.asarray(decode_image(data, on_wide=noted.append)).astype(int)
        assert np.abs(full - values / 257).max() <= 1, name
        assert noted == [wide_maximum(data)], name
        assert values.max() <= noted[0] <= values.max() | 255, name
        with pytest.raises(PictureError) as caught:
            decode_image(data, bit_depth=10)
        assert (caught.value.kind, "bit_depth" in str(caught.value)) == ("unsupported kind", True)


def test_a_file_that_states_its_depth_is_scaled_by_that():
    grey, colours = ramp(1), ramp(3)
    for data, values in ((pnm(grey, largest=LARGEST), grey), (pnm(colours, largest=LARGEST), colours)):  # fmt: skip
        for bit_depth in (None, 8, 12, 16):
            found = np.asarray(decode_image(data, bit_depth=bit_depth)).astype(int)
            assert np.abs(found - values / LARGEST * 255).max() <= 1
        assert wide_maximum(data) is None
    for image in (Image.new("RGB", (4, 4)), Image.new("L", (4, 4)), Image.new("F", (4, 4))):
        assert wide_maximum(as_bytes(image, format="TIFF")) is None
    assert wide_maximum(b"no image") is None


def test_a_transparent_colour_is_compared_with_all_bits():
    values = np.array([[[1, 2, 3], [1, 2, 4], [4095, 0, 0]]], np.uint16)
    chunk = b"tRNS" + struct.pack(">HHH", 1, 2, 3)
    data = png(values)
    at = data.index(b"IDAT") - 4
    data = data[:at] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]  # fmt: skip
    for bit_depth, red in ((None, 15), (12, 255)):
        found = np.asarray(decode_image(data, bit_depth=bit_depth))
        assert found[0].tolist() == [[255, 255, 255], [0, 0, 0], [red, 0, 0]]


def test_images_in_memory_are_scaled_too():
    values = ramp(1)[..., 0]
    expected = np.rint(values / LARGEST * 255).astype(np.uint8)
    found = np.asarray(to_rgb(Image.fromarray(values), bit_depth=12))
    assert np.array_equal(found[..., 0], expected)
    for wrong in (7, 17, 12.0, True):
        with pytest.raises(ConfigError):
            decode_image(png(ramp(1)), bit_depth=wrong)  # pyright: ignore[reportArgumentType]


# ── the decision ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_depth_is_the_smallest_that_holds_all_values():
    for largest, depth in ((200, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (9000, 14), (16384, 16), (65535, 16)):  # fmt: skip
        assert decide_bit_depth({"a": largest, "b": largest // 2, "black": 0}) == depth
    assert decide_bit_depth({"black": 0}) == 16
    many = {str(number): 60_000 for number in range(20)}
    assert decide_bit_depth({**many, "dark": 3000}) == 16
    with pytest.raises(DataError, match="dark7") as caught:
        decide_bit_depth({**many, **{f"dark{number}": 4000 for number in range(8)}})
    assert "--bit-depth 16 (bit_depth=16)" in str(caught.value)
    assert not isinstance(caught.value, PictureError)


def test_loaders_decide_by_a_sample_and_say_it(tmp_path: Path):
    table = resolve_data(write_set(tmp_path / "set", TWELVE), valid="0.25", seed=0)
    assert guess_bit_depth(table) == 12
    with pytest.warns(UserWarning, match="16-bit images use 12 bits: values are scaled by 4,095"):
        loaders = DataLoaders(table, resize=Resize(6), device="cpu", num_workers=0)
    assert loaders.table.bit_depth == loaders.reader.bit_depth == 12
    assert loaders.reader.read(table.paths[0]).max() > 180
    image, _ = loaders.train_ds[0]
    assert np.asarray(image).max() > 180
    for stated in (12, 16):  # nothing is guessed, so nothing is said
        loaders = DataLoaders(table, resize=Resize(6), device="cpu", bit_depth=stated)
        assert loaders.reader.bit_depth == stated
    mixed = write_set(tmp_path / "set", {"bright": 65000})
    with pytest.raises(DataError, match="bit_depth=16"):
        DataLoaders(resolve_data(mixed, valid="0.25", seed=0), resize=Resize(6))


def test_eight_bits_need_no_decision(tmp_path: Path, make_image: Callable[..., Path]):
    for label in "ab":
        for number in range(4):
            for suffix in ("png", "jpg"):
                make_image(f"set/{label}/{number}.{suffix}", label="disc")
    table = resolve_data(tmp_path / "set", valid="0.25", seed=0)
    assert guess_bit_depth(table) is None
    assert DataLoaders(table, resize=Resize(6), device="cpu").reader.bit_depth is None


# ── one depth everywhere ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_cached_depends_on_the_depth(tmp_path: Path):
    path = write_set(tmp_path / "set", {"one": 4000}, names="a") / "a" / "one.png"
    cache = ImageCache(mode="memory")
    noted: dict[Any, int] = {}
    undecided = ImageReader(resize=Resize(6), cache=cache, on_wide=noted.__setitem__)
    dark = undecided.read(path)
    assert noted == {path: 4000}
    assert undecided.read(path) is not dark  # it must be seen again by whoever decides
    readers = {n: ImageReader(resize=Resize(6), cache=cache, bit_depth=n) for n in (12, 16)}
    bright = readers[12].read(path)
    assert readers[12].read(path) is bright
    assert bright.max() > 200
    assert np.array_equal(readers[16].read(path), dark)
    alone = ImageReader(resize=Resize(6), cache=cache)
    with pytest.warns(UserWarning, match=r"one\.png"):
        alone.read(path)
    with warnings.catch_warnings():  # once for a reader
        warnings.simplefilter("error")
        alone.read(path)


def test_the_model_file_keeps_the_depth(tmp_path: Path, make_classifier: Callable[..., Classifier]):
    classifier = make_classifier(("a", "b"))
    image = tmp_path / "image.png"
    image.write_bytes(png(ramp(3)))
    eight = Image.fromarray(np.rint(ramp(3) / LARGEST * 255).astype(np.uint8))
    answers: list[list[float]] = []
    for bit_depth in (None, 16, 12):
        path = tmp_path / f"{bit_depth}.safetensors"
        save_bundle(path, classifier=classifier, resize=Resize(32), bit_depth=bit_depth)
        assert read_manifest(path).bit_depth == bit_depth
        predictor = Predictor.load(path, device="cpu")
        assert predictor.dls.reader.bit_depth == predictor.bit_depth == bit_depth
        if bit_depth == 12:
            assert predictor.predict(image).to_dict() == predictor.predict(eight).to_dict()
        with warnings.catch_warnings(action="ignore"):
            answers.append(predictor.predict(image).probabilities.tolist())
    assert answers[0] == answers[1] != answers[2]


def test_check_and_train_decide_once_and_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set", TWELVE)
    line = "16-bit images use 12 bits: values are scaled by 4,095"

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            app(words)
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    options = ("--size", "32", "--epochs", "0", "--device", "cpu", "--out", "run")
    code, out, _ = run("train", "set", *options)
    assert (code, out.count(line)) == (0, 1)
    assert read_manifest(tmp_path / "run" / "model.safetensors").bit_depth == 12
    code, out, _ = run("check", "set", "--json")
    assert json.loads(out)["bit_depth"] == 12
    write_set(tmp_path / "set", {"bright1": 60_000, "bright2": 60_000})
    code, _, err = run("check", "set")
    assert (code, "--bit-depth 16" in err) == (2, True)
    code, out, _ = run("check", "set", "--bit-depth", "16")
    assert (code, "scaled by 65,535" in out) == (0, True)
    code, _, err = run("check", "set", "--bit-depth", "12")
    assert (code, "bright1" in err) == (2, True)
