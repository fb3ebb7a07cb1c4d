"""What strangers' bytes reach, one target for each kind: model files, images, requests to the server, tables, unfinished predictions.

A target takes any bytes, and raises what no such input may raise: anything but the error that its readers promise.
``scripts/fuzz`` runs them under atheris, which follows the branches that inputs take; ``test_targets.py`` runs them on the
seeds, those made here and those kept in ``seeds.zip``, and on inputs under which something gave way.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vizsla import PictureError, Predictor, Resize, VizslaError
from vizsla.data.images import decode_image, size_from_header
from vizsla.data.table import resolve_data
from vizsla.model_file import load_bundle, read_manifest, save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone
from vizsla.predict import Format, part_of, read_list, settings_of
from vizsla.predict.formats import PartFile
from vizsla.serve import Limits, build_app, screen

MOST_BYTES = 20_000
"""Of an input: what readers decide stands near the start."""

_MOST_PIXELS = 1_000_000
_LENGTH = 8  # Bytes of the number before the header of a safetensors file.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")

Target = Callable[[bytes], None]


_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1,
        3,
        64,
        2**31,
        2**63,
        0.5,
        -1e300,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\0",
        "\ud800",
        "../x",
    ),
    *(
        [],
        [1, 2],
        ["a"],
        [0.5, 0.9],
        [16_384, 16_384],
        {},
        {"a": 1},
        "resnet18",
        "test_vit",
        "test_efficientnet",
        "torchvision",
    ),
    *(
        "timm",
        "concat_pool",
        "linear",
        "features",
        "regression",
        "multi_category",
        "bicubic",
        "pad",
        "squish",
        "crop",
    ),
)


def kept_seeds(name: str) -> Generator[bytes]:
    """Yield the inputs that longer runs found for a target, each for a branch that no other reaches."""
    with zipfile.ZipFile(Path(__file__).with_name("seeds.zip")) as archive:
        yield from (archive.read(one) for one in archive.namelist() if one.startswith(f"{name}/"))


def _places(value: Any) -> Generator[tuple[Any, Any]]:
    """Yield each list or object in a value with each of its keys."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _small_model(folder: Path) -> Path:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[4], seed=1)
    classifier = Classifier(backbone, head, vocab=("cat", "dog"), task="category").eval()
    return save_bundle(folder / "model.safetensors", classifier=classifier, resize=Resize(32))


def _image(kind: str, *, mode: str = "RGB", **options: Any) -> bytes:
    noise = bytes(range(256)) * 3
    file = io.BytesIO()
    Image.frombytes("RGB", (16, 16), noise).convert(mode).save(file, format=kind, **options)
    return file.getvalue()


class ModelTarget:
    """A model file. After ``M`` come the bytes of its manifest, under a digest that fits; else those of its header."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "damaged.safetensors"
        content = _small_model(folder).read_bytes()
        end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
        self._header, self._weights = content[:end], content[end:]
        self._fields = json.loads(content[_LENGTH:end])

    def seeds(self) -> Generator[bytes]:
        yield b"H" + self._header
        manifest = json.loads(self._fields["__metadata__"]["vizsla.manifest"])
        yield b"M" + json.dumps(manifest).encode()
        for change in ({"head": {**manifest["head"], "kind": "linear"}}, {"task": "\ud800"}):
            yield b"M" + json.dumps({**manifest, **change}).encode()

    def mutate(self, data: bytes, most: int, seed: int) -> bytes:
        """Change a value of a manifest, for few changes of bytes leave it JSON; or any bytes."""
        import atheris

        draw = np.random.default_rng(seed)
        try:
            manifest = json.loads(data[1:]) if data[:1] == b"M" and draw.random() < 0.8 else None
        except ValueError:
            manifest = None
        places = list(_places(manifest))
        if not places:
            return atheris.Mutate(data, most)
        place, key = places[draw.integers(len(places))]
        if draw.random() < 0.2:
            del place[key]
        elif draw.random() < 0.3:
            other, its = places[draw.integers(len(places))]
            place[key] = copy.deepcopy(other[its])
        else:
            place[key] = copy.deepcopy(_VALUES[draw.integers(len(_VALUES))])
        return b"M" + json.dumps(manifest).encode()[: most - 1]

    def __call__(self, data: bytes) -> None:
        header = data[1:]
        if data[:1] == b"M":
            text = header.decode("utf-8", "replace")
            digest = hashlib.sha256(text.encode()).hexdigest()
            metadata = {"vizsla.manifest": text, "vizsla.sha256": digest}
            whole = json.dumps({**self._fields, "__metadata__": metadata}).encode()
            header = len(whole).to_bytes(_LENGTH, "little") + whole
        self._path.write_bytes(header + self._weights)
        try:
            load_bundle(self._path)
        except VizslaError as error:
            if str(self._path) not in str(error):
                raise RuntimeError(f"the message does not name the file: {error}") from error


class ImageTarget:
    """An image file, screened as the server does and then decoded."""

    def seeds(self) -> Generator[bytes]:
        for kind in _FORMATS:
            yield _image(kind)
        yield _image(
            "JPEG",
            progressive=True,
            exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0",
        )
        yield _image("JPEG", mode="CMYK")
        yield _image("PNG", mode="P", transparency=3)
        yield _image("PNG", mode="I;16")
        yield _image("TIFF", mode="RGBA", compression="tiff_lzw")
        yield _image("TIFF", mode="F")
        yield _image("WEBP", mode="RGBA", lossless=True)
        yield _image("GIF", save_all=True, append_images=[Image.new("RGB", (16, 16))])

    def __call__(self, data: bytes) -> None:
        found = screen(data, max_pixels=_MOST_PIXELS)
        if found.refusal:
            return
        size = size_from_header(data)
        for cover in (None, (8, 8)):
            try:
                image = decode_image(data, truncated="ok" if cover else "strict", cover=cover)
            except PictureError:
                continue
            if image.mode != "RGB" or (cover is None and size != image.size[::-1]):
                raise RuntimeError(
                    f"decoded to {image.mode} of {image.size}, where {size} was expected"
                )


class RequestTarget:
    """A request to the server: its query, its content type and its body, a line each; lines of the body end its chunks."""

    def __init__(self, folder: Path) -> None:
        model = _small_model(folder)
        limits = Limits(pixels=_MOST_PIXELS, body_bytes=2 * MOST_BYTES, requests_per_second=0)
        self._app = build_app(
            Predictor.load(model, device="cpu"),
            manifest=read_manifest(model),
            limits=limits,
            title="Shapes",
        )
        self._loop = asyncio.new_event_loop()
        self._lifespan: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        started = asyncio.Event()

        async def send(message: Any) -> None:
            started.set()

        self._lifespan.put_nowait({"type": "lifespan.startup"})
        self._running = asyncio.create_task(
            self._app({"type": "lifespan", "state": {}}, self._lifespan.get, send)
        )
        await started.wait()

    def close(self) -> None:
        self._lifespan.put_nowait({"type": "lifespan.shutdown"})
        self._loop.run_until_complete(self._running)
        self._loop.close()

    def seeds(self) -> Generator[bytes]:
        part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        png = _image("PNG")
        yield b"heat=1&nearest=3\nmultipart/form-data; boundary=x\n" + part + png + b"\r\n--x--\r\n"
        yield b"\nmultipart/form-data; boundary=x\n" + (part + b"no image\r\n") * 3 + b"--x--\r\n"
        yield b"coverage=0.9\nimage/png\n" + png
        yield b"name=%C3%A9\napplication/octet-stream\n" + _image("JPEG")
        yield (
            b"\nmultipart/form-data; boundary=x\n"
            + part.replace(b"filename", b"filename*=utf-8''%e2; x")
            + b"\r\n--x"
        )

    def __call__(self, data: bytes) -> None:
        query, _, rest = data.partition(b"\n")
        kind, _, body = rest.partition(b"\n")
        self._loop.run_until_complete(self._ask(query, kind, body.splitlines(keepends=True)))

    async def _ask(self, query: bytes, kind: bytes, chunks: list[bytes]) -> None:
        waiting = iter(chunks)
        answer: list[Any] = []

        async def receive() -> dict[str, Any]:
            chunk = next(waiting, None)
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        async def send(message: Any) -> None:
            answer.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/predict",
            "raw_path": b"/api/predict",
            "query_string": query,
            "headers": [(b"host", b"localhost"), (b"content-type", kind)],
            "client": ("127.0.0.1", 1),
            "scheme": "http",
        }
        await self._app(scope, receive, send)
        status = answer[0]["status"]
        json.loads(b"".join(message.get("body", b"") for message in answer[1:]))
        if status not in (200, 400, 413, 415, 422):
            raise RuntimeError(f"the server answered {status}")


class TableTarget:
    """A table of images and labels, or after ``L`` a list of paths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "labels.csv"
        for name in ("a.png", "b.png", "c/a.png", "Ü.png"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")

    def seeds(self) -> Generator[bytes]:
        yield b"Timage,label,is_valid\na.png,cat,0\nb.png,dog,1\nc/a.png,cat,1\nb.png,dog,0\n"
        yield 'T\ufeffsep=;\nfile;split;breed\n"Ü.png";train;"a""b"\nb;test;x|y\n'.encode()
        yield b"Ta.png\tcat\r\nb.png\tdog\r\n"
        yield b"T,id,cat,dog\n0,a,1,0\n1,b,0,1\n"
        yield b"La.png\r\nb.png\nc/a.png"
        yield b"L\xef\xbb\xbfa.png\0b.png\0"

    def __call__(self, data: bytes) -> None:
        content = data[1:]
        try:
            if data[:1] == b"L":
                for null in (False, True):
                    list(read_list(io.BytesIO(content), null=null, name="the list"))
                return
            self._file.write_bytes(content)
            resolve_data(self._folder, labels=f"csv:{self._file}", valid="pool:0.5", seed=1)
        except VizslaError:
            pass


class PartTarget:
    """The rows of predictions that were stopped; after ``C`` any lines, under checksums that fit, which are not made a table of."""

    _NAMES = ("a.png", "b.png", "c.png")

    def __init__(self, folder: Path) -> None:
        self._file = folder / "predictions.csv"

    def seeds(self) -> Generator[bytes]:
        rows = [
            {"path": name, "prediction": "cat", "probability": 0.75, "probabilities": {"cat": 0.75, "dog": 0.25}}
            for name in self._NAMES
        ]  # fmt: skip
        yield b"C" + b"\n".join(json.dumps(row).encode() for row in rows)
        yield b"C" + json.dumps({"path": "a.png", "error": "the file is truncated"}).encode()
        yield b"R" + b"".join(self._line(n, json.dumps(row).encode()) for n, row in enumerate(rows))

    @staticmethod
    def _line(number: int, row: bytes) -> bytes:
        text = b'"number": %d, "row": %b' % (number, row)
        return b'{"crc32": %d, %b}\n' % (zlib.crc32(text), text)

    def __call__(self, data: bytes) -> None:
        content = data[1:]
        if data[:1] == b"C":
            content = b"".join(starmap(self._line, enumerate(content.split(b"\n"))))
        part_of(self._file).write_bytes(content)
        settings_of(self._file).write_text("{}")
        columns = {
            "path": "text",
            "prediction": "text",
            "probability": "probability",
            "error": "text",
        }
        try:
            with warnings.catch_warnings(action="ignore"):  # of damaged rows
                part = PartFile(
                    self._file, iter(self._NAMES), settings={}, batch_size=1, resume=True
                )
            with closing(part):
                for name in part.images:
                    part.write({"path": name, "error": "new"})
                if data[:1] == b"C":
                    return
                part.finish(form=Format.csv, columns=columns)
        except VizslaError:
            return
        if self._file.read_text("utf-8").count("\n") < len(self._NAMES):
            raise RuntimeError("rows are missing")


TARGETS: dict[str, Callable[[Path], Any]] = {
    "model": ModelTarget,
    "image": lambda _: ImageTarget(),
    "request": RequestTarget,
    "table": TableTarget,
    "part": PartTarget,
}
