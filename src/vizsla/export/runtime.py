"""Predict images with an ONNX file that vizsla wrote: needs onnxruntime, numpy and Pillow; neither torch nor the rest of vizsla.

Import it from vizsla, or copy this one file beside the model. From a shell it prints one JSON object for each image:

    python runtime.py model.onnx photo.jpg

Files are decoded as vizsla does it (orientation, colour profile, transparency, 16-bit greys, JPEGs at a reduced scale), and
brought to the size that the file asks for by Pillow. Three things differ from vizsla: on processors where vizsla resizes with torch,
two pixel values in 1,000 differ by one grey level; HEIC is not read; and 16-bit files of which Pillow keeps too little are refused
(see ``_narrowed``). The class names and everything else come from the file's metadata.

Sizes are (height, width). H, W: sides of a decoded image; h, w: of what the file takes.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    AnyImage = Path | str | bytes | Image.Image | NDArray[np.uint8]

try:
    from vizsla.errors import MissingExtraError, ModelFileError, PictureError
except ImportError:  # copied to where there is no vizsla
    PictureError = ModelFileError = type("OnnxPredictorError", (ValueError,), {})
    MissingExtraError = None

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read; leave TIFF out for files of strangers, which can take far more memory to decode than their size lets expect."""

MAX_PIXELS = 178_956_970
"""Of one image. Pillow refuses more by itself."""

_LARGEST_BOX = 2**25  # Pixels. Larger parts are shrunk by a whole factor first, as in training.
_PADDING: dict[str, Any] = {"reflection": "reflect", "border": "edge", "zeros": "constant"}
_ORIENTATION = 0x0112
# EXIF counts from 1, upright. From 5 on height and width change places.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class OnnxPredictor:
    """Predicts images with an ONNX file on the CPU.

    Args:
        path: The file, as ``vizsla export MODEL --onnx FILE`` or a Space or Docker folder has it.
        num_threads: Of onnxruntime; 0 for one per core. Say it in a container, whose share of the cores onnxruntime does not know.
        formats: See ``FORMATS``.
        max_pixels: Larger images are refused before they are decoded.

    Attributes:
        vocab: Names of the classes or numbers, in the order of the probabilities.
        task: ``"category"``, ``"multi_category"`` or ``"regression"``.
        manifest: Everything that the model file says of itself.

    Raises:
        ModelFileError: There is no such file, or vizsla did not write it.

    Examples:
        >>> OnnxPredictor("model.onnx").predict("photo.jpg")["prediction"]
        'cat'
    """

    def __init__(
        self,
        path: Path | str,
        *,
        num_threads: int = 0,
        formats: Sequence[str] = FORMATS,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            if MissingExtraError is None:
                raise
            raise MissingExtraError(
                "onnxruntime", extra="onnx", purpose="run an ONNX file"
            ) from error
        if not Path(path).is_file():
            raise ModelFileError(f"There is no ONNX file {path}. Check the path.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about itself
        options.intra_op_num_threads = num_threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.manifest: dict[str, Any] = json.loads(metadata["vizsla.manifest"])
            self.vocab: tuple[str, ...] = tuple(json.loads(metadata["vizsla.vocab"]))
            self.task: str = metadata["vizsla.task"]
        except KeyError as error:
            raise ModelFileError(
                f"{path} was not written by vizsla: its metadata lacks {error}. Write it with `vizsla export MODEL --onnx FILE`."
            ) from error
        except Exception as error:
            raise ModelFileError(f"onnxruntime cannot open {path}: {error}") from error
        self._formats, self._max_pixels = tuple(formats), max_pixels

    def predict(self, image: AnyImage) -> dict[str, Any]:
        """Return what the model says about one image: a file, the bytes of one, a Pillow image, or uint8 ``(H, W, 3)``.

        Returns:
            ``prediction`` (a list where there may be several labels), ``probability``, ``top`` and ``probabilities``, as a line of
            ``vizsla predict --json`` has them; for regression ``prediction`` alone, a number by name.

        Raises:
            PictureError: The image cannot be read.
        """
        return self.describe(self.answers(self.prepare(image)[None])[0])

    def prepare(self, image: AnyImage) -> NDArray[np.uint8]:
        """Return the image as the file takes it, uint8 ``(h, w, 3)``; raise PictureError if it cannot be read."""
        return prepared(image, self.manifest, formats=self._formats, max_pixels=self._max_pixels)

    def answers(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities, or numbers for regression, float32 ``(B, C)``, of images ``(B, h, w, 3)`` that ``prepare`` gave."""
        return self._session.run(None, {"images": images})[0]

    def describe(self, answer: NDArray[np.float32]) -> dict[str, Any]:
        """Return one row of ``answers`` under the names that ``predict`` uses."""
        values = dict(zip(self.vocab, answer.tolist(), strict=True))
        if self.task == "regression":
            return {"prediction": values}
        best = np.argsort(-answer, kind="stable")[:3].tolist()
        prediction, probability = self.vocab[best[0]], float(answer[best[0]])
        if self.task == "multi_category":
            has = answer > np.array(self.manifest.get("thresholds") or [0.5] * len(self.vocab))
            prediction = [name for name, is_there in zip(self.vocab, has, strict=True) if is_there]
            probability = float(np.where(has, answer, 1 - answer).min())
        return {
            "prediction": prediction,
            "probability": probability,
            "top": [
                {"label": self.vocab[index], "probability": float(answer[index])} for index in best
            ],
            "probabilities": values,
        }


def prepared(
    image: AnyImage,
    manifest: dict[str, Any],
    *,
    formats: Sequence[str] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Return an image as a model with this manifest takes it, see ``OnnxPredictor.prepare``."""
    resize: dict[str, Any] | None = manifest["resize"]
    try:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        elif not isinstance(image, Image.Image):
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
            opened = Image.open(BytesIO(data), formats=tuple(formats))
            if opened.width * opened.height > max_pixels:
                size = f"{opened.width} x {opened.height}"
                raise ValueError(f"it has {size} pixels, more than {max_pixels:,}")
            if opened.format in ("JPEG", "MPO") and resize is not None:
                height, width = (
                    math.ceil(side * resize.get("reducing_gap", 1.0)) for side in resize["size"]
                )
                cover = (width, height) if _orientation(opened) < 5 else (height, width)
                opened.draft(opened.mode, cover)
            image = opened
        upright = _upright(image, bit_depth=manifest.get("bit_depth"))
        return np.asarray(
            upright
            if resize is None
            else _resized(upright, resize["size"], resize["method"], resize["pad_mode"])
        )
    except Exception as error:
        name = f"of {len(image)} bytes" if isinstance(image, bytes) else str(image)
        raise PictureError(f"Cannot read the image {name}: {error}") from error


def _upright(image: Image.Image, *, bit_depth: int | None) -> Image.Image:
    """Return an image of any mode as upright sRGB of 8 bits, laid over white where it is transparent."""
    raw_modes = str([getattr(tile, "args", "") for tile in getattr(image, "tile", ())])
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _narrowed(image, bit_depth=bit_depth)
    elif ";16" in raw_modes and (bit_depth or 16) < 16:
        raise ValueError(f"colours of 16 bits of which {bit_depth} are used; convert it to 8 bits")
    image = _in_srgb(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("LA") if image.mode == "La" else image
        with_alpha = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(with_alpha, mask=with_alpha)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _narrowed(image: Image.Image, *, bit_depth: int | None) -> Image.Image:
    """Return greys of 16 bits as 8; refuse transparent and inverted ones, which Pillow does not give as they are meant."""
    tags: Any = getattr(image, "tag_v2", {})
    if "transparency" in image.info or tags.get(262) == 0:
        raise ValueError(
            "greys of 16 bits with transparency, or with white as 0; convert it to 8 bits"
        )
    stated = tags.get(258, (16,))[0] if image.mode.startswith("I;16") else 16  # a TIFF of 12 bits
    # Pillow has scaled the values of other formats.
    used = (bit_depth or 16) if image.format in (None, "PNG", "TIFF") and stated == 16 else stated
    white = 1.0 if image.mode == "F" else 2.0**used - 1
    values = np.asarray(image)
    if not 0 <= values.min() <= values.max() <= white:
        raise ValueError(
            f"values from {values.min()} to {values.max()}, where 0 to {white:g} is expected"
        )
    narrow = Image.fromarray(np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8))
    narrow.info["icc_profile"] = image.info.get("icc_profile")
    return narrow


def _orientation(image: Image.Image) -> int:
    """Return how EXIF says an image lies, 1 to 8; 1 where that is absent or damaged."""
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 (damaged in any way; the pixels may still be good)
        return 1
    return found if found in _TURNS else 1


_CONVERSIONS: dict[tuple[bytes, str], Any] = {}


def _in_srgb(image: Image.Image) -> Image.Image:
    """Return an image in sRGB by its colour profile; unchanged where it has none, or one that changes next to nothing."""
    profile: bytes = image.info.get("icc_profile") or b""
    bands = {
        "L": "L",
        "LA": "L",
        "RGB": "RGB",
        "RGBA": "RGB",
        "P": "RGB",
        "PA": "RGB",
        "CMYK": "CMYK",
    }
    mode = "LAB" if image.mode == "LAB" else bands.get(image.mode)
    if mode is None or not (profile or mode == "LAB"):
        return image
    key = hashlib.sha256(profile).digest(), mode
    if key not in _CONVERSIONS:
        if len(_CONVERSIONS) >= 32:
            _CONVERSIONS.clear()
        _CONVERSIONS[key] = _conversion(profile, mode)
    conversion = _CONVERSIONS[key]
    if conversion is None:
        return image
    has_alpha = "transparency" in image.info or image.mode.endswith("A")
    image = image.convert("LA" if mode == "L" else "RGBA") if has_alpha else image
    converted = conversion.apply(image if image.mode == mode else image.convert(mode))
    converted.info = {}
    if has_alpha:
        converted.putalpha(image.getchannel("A"))
    return converted


def _conversion(profile: bytes, mode: str) -> Any:
    """Return what converts images with a profile to sRGB; None if it is damaged, of other pixels, or sRGB under another name."""
    try:
        source = ImageCms.createProfile("LAB") if mode == "LAB" else BytesIO(profile)
        conversion: Any = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(source),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode in ("CMYK", "LAB"):
        return conversion
    levels = np.indices((16, 16, 16), dtype=np.uint8).reshape(3, 64, 64) * 17
    colours = (
        Image.linear_gradient("L")
        if mode == "L"
        else Image.fromarray(np.moveaxis(levels, 0, 2).copy())
    )
    moved = np.asarray(conversion.apply(colours), np.int16) - np.asarray(colours.convert("RGB"))
    return conversion if np.abs(moved).max() > 2 else None


def _resized(image: Image.Image, size: Sequence[int], method: str, pad_mode: str) -> Image.Image:
    """Return an RGB image at ``size``: its middle, or all of it padded or squashed."""
    left, top, right, bottom = _box(image, size=size, method=method)
    factor = math.ceil(math.sqrt((right - left) * (bottom - top) / _LARGEST_BOX))
    if factor > 1:
        image = image.reduce(factor)
        left, top, right, bottom = _box(image, size=size, method=method)
    if method == "pad":
        around = ((-top, bottom - image.height), (-left, right - image.width), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), around, mode=_PADDING[pad_mode]))
    elif method == "crop":
        image = image.crop((left, top, right, bottom))
    # Rows first, then columns: by itself Pillow may choose the other order, which rounds one value in four otherwise.
    image = image.resize((size[1], image.height), Image.Resampling.BILINEAR)
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def _box(image: Image.Image, *, size: Sequence[int], method: str) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of what becomes the result; it reaches beyond the image where that is padded."""
    width, height = box_width, box_height = image.size
    if method != "squish":
        wide = width * size[0] >= height * size[1]
        if wide == (method == "crop"):
            box_width = max(1, height * size[1] // size[0])
        else:
            box_height = max(1, width * size[0] // size[1])
    left, top = int(0.5 * (width - box_width)), int(0.5 * (height - box_height))
    return left, top, left + box_width, top + box_height


def main(words: Sequence[str]) -> int:
    """Print a JSON object for each image; return 2 if one could not be read."""
    if len(words) < 2:
        raise SystemExit("Usage: python runtime.py MODEL.onnx IMAGE...")
    predictor, failed = OnnxPredictor(words[0]), False
    for path in words[1:]:
        try:
            said = predictor.predict(path)
        except PictureError as error:
            said, failed = {"error": str(error)}, True
        sys.stdout.write(f"{json.dumps({'path': path, **said})}\n")
    return 2 * failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
