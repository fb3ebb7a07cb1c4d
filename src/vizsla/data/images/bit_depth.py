"""Files with 16 bits for each value: how many of the bits a data set uses, and how its values become 8 bits.

Cameras and microscopes write 10 or 12 bits into files of 16, which are almost black where they are scaled by 65,535. One image
does not tell a dark scene from an unused bit, so one depth is decided for a whole data set. A file that states its own depth is
scaled by that: a PGM or PPM by its largest value, JPEG 2000, a 12-bit TIFF.

Pillow keeps only the upper byte of 16-bit colours. The lower one comes from reading them again as if their bytes were in the
other order. H, W: sides; C: bands.
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from vizsla.data.images.refusals import UnsupportedError
from vizsla.errors import ConfigError, DataError
from vizsla.text import counted, listed, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

FULL_DEPTH = 16
DEPTHS = (8, 10, 12, 14, FULL_DEPTH)
"""What sensors have; the smallest that holds all values of a data set is taken, which leaves room for brighter images."""

ALMOST_BLACK = 2**12
"""An image whose values are all below this is almost black where they are scaled by 65,535."""

_WHITE = 2**FULL_DEPTH - 1
_DARK_BITS = 4
_DARK_SHARE = 0.1
"""Where so many images use so many bits fewer than the brightest, they may be of another camera, or of darker scenes."""

_WIDE_ROWS = 64
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_NUM_COLOURS = {"RGB": 3, "RGBA": 3, "RGBa": 3, "CMYK": 4, "LA": 1}
_CODESTREAM, _BITS_OFFSET = (
    b"\xff\x4f\xff\x51",
    42,
)  # JPEG 2000: its size marker, and the bits of the first band.


def check_bit_depth(bit_depth: int | None) -> int | None:
    """Return a depth that 16-bit images can use, or None; raise a ConfigError for anything else."""
    if bit_depth is None or (type(bit_depth) is int and 8 <= bit_depth <= FULL_DEPTH):
        return bit_depth
    raise ConfigError(f"bit_depth must be a whole number from 8 to 16. Received: {bit_depth!r}")


def decide_bit_depth(maxima: Mapping[str, int]) -> int:
    """Return how many bits the 16-bit images of a data set use, from the largest value of each.

    Raises:
        DataError: A tenth of the images, or more, use at most a sixteenth of the range of the others.
    """
    used = {path: largest for path, largest in maxima.items() if largest > 0}
    largest = max(used.values(), default=_WHITE)
    depth = next(depth for depth in DEPTHS if largest < 2**depth)
    dark = sorted(path for path, value in used.items() if value < 2 ** (depth - _DARK_BITS))
    if len(dark) < _DARK_SHARE * len(used) or not dark:
        return depth
    raise DataError(
        f"The 16-bit images seem to have different bit depths: values in {len(dark)} of "
        f"{counted(len(used), 'image')} reach at most {max(used[path] for path in dark):,}, in others up to "
        f"{largest:,}. The first group would be almost black:\n"
        f"{listed([quoted(path) for path in dark])}\n"
        f"If these images really are dark, give the bit depth of all images: --bit-depth {depth} "
        f"(bit_depth={depth}). If not, convert them first."
    )


def bit_depth_line(bit_depth: int) -> str:
    """Return the sentence about the depth that all 16-bit images are read with."""
    return f"16-bit images use {bit_depth} bits: values are scaled by {2**bit_depth - 1:,}"


def scaled_to_bytes(values: NDArray[Any], *, white: float) -> NDArray[np.uint8]:
    """Return values from 0 to ``white``, of any shape, as uint8 from 0 to 255; raise an UnsupportedError for others."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:
        cure = "; give the bit depth of the images (--bit-depth, bit_depth)" if 255 <= white < high <= _WHITE else ""  # fmt: skip
        raise UnsupportedError(
            f"its values range from {low:g} to {high:g}, but only 0 to {white:g} is supported{cure}"
        )
    narrow = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _WIDE_ROWS):  # At once, 50 million values took 1.3 GB.
        rows = slice(start, start + _WIDE_ROWS)
        narrow[rows] = np.rint(values[rows].astype(np.float64) * (255 / white)).astype(np.uint8)
    return narrow


@dataclass(frozen=True, kw_only=True, slots=True)
class WideFile:
    """A file with more than 8 bits for each value.

    Attributes:
        data: All its bytes.
        raw_mode: How Pillow unpacks the values.
        white: The largest value, where the file states it; None where it depends on the data set.
        is_planar: Each band is stored on its own.
    """

    data: bytes
    raw_mode: str
    white: int | None
    is_planar: bool = False

    def narrowed(
        self,
        image: Image.Image,
        *,
        bit_depth: int | None,
        on_wide: Callable[[int], None] | None,
    ) -> Image.Image:
        """Load an opened image with 8 bits for each value; ``on_wide`` is told the largest one if the depth is not known."""
        if not self.is_planar:  # Pillow mixes up the bands of some planar files.
            image.load()
        white = self.white or 2 ** (bit_depth or FULL_DEPTH) - 1
        told = on_wide if self.white is None and bit_depth is None else None
        made = (
            self._narrow_grey(image, white=white, told=told)
            if len(image.getbands()) == 1
            else self._narrow_colours(image, white=white, told=told)
        )
        made.info = {name: value for name, value in image.info.items() if name != "transparency"}
        return made

    def _narrow_grey(
        self, image: Image.Image, *, white: int, told: Callable[[int], None] | None
    ) -> Image.Image:
        values = np.asarray(image)
        if told is not None:
            told(int(values.max()))
        narrow = scaled_to_bytes(values, white=white)
        if _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
            narrow = 255 - narrow
        made = Image.fromarray(narrow)
        transparent = image.info.get("transparency")
        if transparent is not None:
            made.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return made

    def _narrow_colours(
        self, image: Image.Image, *, white: int, told: Callable[[int], None] | None
    ) -> Image.Image:
        transparent = image.info.get("transparency")
        is_premultiplied = (_tag(image, TiffImagePlugin.EXTRASAMPLES) or (0,))[0] == 1
        is_grey = self.raw_mode == "LA;16B"
        if white == _WHITE and transparent is None and not self.is_planar and not is_premultiplied:
            if told is not None:
                told(self._largest_colour(image))
            return image
        mode = "LA" if is_grey else "RGBa" if is_premultiplied else image.mode
        values_HWC = self._values(image)
        colours = values_HWC[..., : _NUM_COLOURS[mode]]
        if told is not None:
            told(int(colours.max()))
        narrow_HWC = np.empty(values_HWC.shape, dtype=np.uint8)
        narrow_HWC[..., : colours.shape[2]] = _narrow(colours, white)
        if colours.shape[2] < values_HWC.shape[2]:
            alpha = values_HWC[..., -1]
            narrow_HWC[..., -1] = _narrow(alpha, white if alpha.max() <= white else _WHITE)
        made = Image.frombytes(mode, values_HWC.shape[1::-1], narrow_HWC.tobytes())
        if transparent is not None:
            shown = (values_HWC != np.array(transparent)).any(axis=2)
            made.putalpha(Image.fromarray(np.where(shown, 255, 0).astype(np.uint8)))
        return made.convert("RGBA") if is_premultiplied else made

    def _values(self, image: Image.Image) -> NDArray[np.uint16]:
        """Return all bits of the colours, uint16 ``(H, W, C)``."""
        if self.is_planar:
            return np.stack([self._plane(image, number) for number in range(len(image.getbands()))], axis=2)  # fmt: skip
        if image.format == "PPM":
            shape = (image.height, image.width, 3)
            start, count = _opened(image, self.data).tile[0].offset, math.prod(shape)
            if self.data[:2] == b"P6":
                return np.frombuffer(self.data, ">u2", count, start).reshape(shape)
            numbers = self.data[start:].split(maxsplit=count)[:count]
            return np.array(numbers).astype(np.uint16).reshape(shape)
        if self.raw_mode == "LA;16B":
            pairs = self._read_as(image, "RGBA").astype(np.uint16)
            return pairs[..., 0::2] << np.uint16(8) | pairs[..., 1::2]
        if ";16" not in self.raw_mode:
            raise UnsupportedError(
                f"only the upper 8 bits of colours can be read from this {image.format} file; convert it to PNG"
            )
        raw_mode = self.raw_mode.replace("RGBa", "RGBA")
        other = raw_mode[:-1] + _OTHER_ORDER[raw_mode[-1]]
        upper, lower = self._read_as(image, raw_mode), self._read_as(image, other)
        return upper.astype(np.uint16) << np.uint16(8) | lower

    def _largest_colour(self, image: Image.Image) -> int:
        """Return the largest value, at most 255 too large: Pillow has kept the upper bytes, and rounded in PPM files."""
        if image.format == "PPM":
            return int(self._values(image).max())
        extrema = cast("tuple[tuple[int, int], ...]", image.getextrema())
        return max(largest for _, largest in extrema[: _NUM_COLOURS[image.mode]]) << 8 | 255

    def _read_as(self, image: Image.Image, raw_mode: str) -> NDArray[np.uint8]:
        """Return the pixels that Pillow reads with another raw mode."""
        again = _opened(image, self.data)
        again.tile = [
            tile._replace(
                args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])
            )
            for tile in again.tile
        ]
        again.load()
        return np.asarray(again)

    def _plane(self, image: Image.Image, number: int) -> NDArray[np.uint16]:
        """Return one band of a planar TIFF, ``(H, W)``: read with a directory behind the data that knows no other band."""
        tags: Any = cast("Any", image).tag_v2
        entries: dict[int, Any] = {tag: tags[tag] for tag in _KEPT_TAGS if tag in tags} | _GREY_TAGS
        for tag in _PLACE_TAGS:
            if tag in tags:
                count = len(tags[tag]) // tags[TiffImagePlugin.SAMPLESPERPIXEL]
                entries[tag] = tags[tag][number * count : (number + 1) * count]
        order = "<" if tags.prefix == TiffImagePlugin.II else ">"
        at = len(self.data) + 2 + 12 * len(entries) + 4
        directory, behind = struct.pack(f"{order}H", len(entries)), b""
        for tag, value in sorted(entries.items()):
            values = value if isinstance(value, tuple) else (value,)
            content = struct.pack(f"{order}{len(values)}I", *values)
            if len(values) > 1:
                content, behind = struct.pack(f"{order}I", at + len(behind)), behind + content
            directory += struct.pack(f"{order}HHI", tag, _LONG, len(values)) + content
        header = tags.prefix + struct.pack(f"{order}HI", 42, len(self.data))
        data = header + self.data[len(header) :] + directory + bytes(4) + behind
        return np.asarray(_opened(image, data)).astype(np.uint16)


_LONG = 4
_KEPT_TAGS = (
    *(TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.ROWSPERSTRIP),
    *(TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH, TiffImagePlugin.COMPRESSION),
    *(TiffImagePlugin.PREDICTOR, TiffImagePlugin.FILLORDER, ExifTags.Base.Orientation),
)
_GREY_TAGS = {
    TiffImagePlugin.BITSPERSAMPLE: FULL_DEPTH,
    TiffImagePlugin.SAMPLESPERPIXEL: 1,
    TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 1,
}
_PLACE_TAGS = (
    *(TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS),
    *(TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.TILEBYTECOUNTS),
)


def wide_file(image: Image.Image, data: bytes) -> WideFile | None:
    """Return what is special about an opened, not yet loaded image with more than 8 bits for each value; None for others."""
    if image.format not in ("PNG", "TIFF", "PPM", "JPEG2000") or image.mode == "F":
        return None
    tiles: Any = getattr(image, "tile", ())
    args: Any = tiles[0].args if tiles else ""
    raw_mode, *more = (args,) if isinstance(args, str) else args
    white: int | None = None
    if image.format == "TIFF":
        bits = _tag(image, TiffImagePlugin.BITSPERSAMPLE) or (1,)
        if max(bits) <= 8:
            return None
        planar = _tag(image, TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        planar = planar and len(image.getbands()) > 1
        white = 2 ** bits[0] - 1 if bits[0] < FULL_DEPTH else None
        return WideFile(data=data, raw_mode=str(raw_mode), white=white, is_planar=planar)
    if image.format == "PNG":
        wide = ";16" in raw_mode
    elif image.format == "PPM":
        largest = more[0] if more else _WHITE if image.mode == "I" else 255
        wide = largest > 255
        white = _WHITE if largest < _WHITE else None  # Pillow has scaled them.
    else:
        at = data.find(_CODESTREAM) + _BITS_OFFSET
        depth = (data[at] & 127) + 1 if _BITS_OFFSET <= at < len(data) else 8
        wide = depth > 8
        white = _WHITE if depth < FULL_DEPTH else None  # Pillow has shifted them.
    return WideFile(data=data, raw_mode=str(raw_mode), white=white) if wide else None


def _opened(image: Image.Image, data: bytes) -> Any:
    """Return an image of the same format, opened; ``Image.open`` would apply Pillow's own limit."""
    return type(image)(BytesIO(data))  # pyright: ignore[reportCallIssue] (formats take a file)


def _narrow(values: NDArray[np.uint16], white: int) -> NDArray[np.uint8]:
    """Return colours as bytes: their upper ones, as Pillow gives them, where all bits are used."""
    if white == _WHITE:
        return (values >> 8).astype(np.uint8)
    return scaled_to_bytes(values, white=white)


def _tag(image: Image.Image, tag: int) -> Any:
    tags: Any = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(tag)
