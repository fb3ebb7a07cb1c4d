"""Count the pixels that decoding a file will allocate, from its bytes alone, before anything is decoded.

The size in a header is a claim. Decoders go by other numbers: a TIFF file of 8 x 8 pixels may hold one tile of 16,000 x 16,000,
and libtiff allocates the tile; an AVIF file may say 64 x 64 over a stream of 100 million pixels, all of which are decoded and
then shrunk. Pillow itself takes a while for files of a million empty parts, and sets canvases aside when it opens a WebP or an
icon. So these numbers are read here, each where the decoder reads it.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vizsla.types import Size

_USUAL_TILE_PIXELS = 2**24
"""The largest tiles that programs write are of 4096 x 4096 pixels, even around a small image."""

_MOST_PIXELS_TO_CLAIMED = 8
"""A film in AVIF may allow its frames four times the pixels, and once more for transparency."""

_MOST_PARTS = 100_000
"""Segments, chunks, blocks and bytes of junk before the pixels; Pillow takes some 0.2 seconds for so many."""

_EXTENSION_PARTS = 100  # Pillow joins the comments of a GIF file again for each one.


class TooCostlyError(Exception):
    """Why a file is not decoded, in words that continue "Cannot read the image PATH: ..."."""


class _DamagedError(Exception):
    """A number that the decoder goes by cannot be found."""


def decoded_pixels(data: bytes, *, max_pixels: int) -> int:
    """Return how many pixels decoding the bytes of a file allocates at most, at full scale; 0 if only decoding tells.

    Raises:
        TooCostlyError: They are more than ``max_pixels``, or many more than the header claims, or there are more parts than
            any program writes.
    """
    kind = format_of(data)
    count = _COUNTERS.get(kind)
    if count is None:
        return 0
    try:
        (height, width), decoded, what = count(data)
    except (_DamagedError, struct.error, IndexError) as error:
        if kind in _HAS_HIDDEN_SIZES:
            raise TooCostlyError("its header does not give the size to decode") from error
        return 0
    pixels = max(decoded, width * height)
    if what and pixels > max(_MOST_PIXELS_TO_CLAIMED * width * height, _USUAL_TILE_PIXELS):
        raise TooCostlyError(f"its header claims {width} x {height} pixels, but {what}")
    if pixels > max_pixels:
        part = f" and {what}" if what else ""
        raise TooCostlyError(
            f"it has {width} x {height} pixels{part}, more than {max_pixels / 1e6:g} million"
        )
    return pixels


def format_of(data: bytes) -> str:
    """Return the format of the bytes of a file as Pillow calls it, by its first bytes; empty for none that is read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        is_avif = data[8:12] in (b"avif", b"avis") or b"av01" in data
        return "AVIF" if is_avif else "HEIF"
    return next((name for start, name in _STARTS.items() if data.startswith(start)), "")


_Count = tuple["Size", int, str]
"""The ``(height, width)`` that the header claims; the pixels that are decoded; if they are others, what has so many."""


def _plain(width: int, height: int) -> _Count:
    return (height, width), width * height, ""


class _Parts:
    """Counts the parts of a file, and refuses too many."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, count: int = 1) -> None:
        self._count += count
        if self._count > _MOST_PARTS:
            raise TooCostlyError(
                f"it has more than {_MOST_PARTS} parts before its pixels, more than any program writes"
            )


# ── formats with one size ─────────────────────────────────────────────────────────────────────────────────────────────

# In coded data a 255 is followed by 0 or by a restart marker; any other follower begins the next segment.
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9


def jpeg_size(data: bytes) -> Size:
    """Return the ``(height, width)`` of a JPEG as stored, of a file that ``decoded_pixels`` has counted."""
    size, _, _ = _count_jpeg(data)
    return size


def _count_jpeg(data: bytes) -> _Count:
    at, width, height, parts = 2, 0, 0, _Parts()
    while True:
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            raise _DamagedError
        parts.add(found.end() - 1 - at)  # One, and the bytes of junk before it.
        marker, at = found[1][0], found.end()
        if marker in (_SCAN, _END):
            return _plain(width, height)
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _FRAMES:  # libjpeg refuses a second one; until then the larger counts.
            one = struct.unpack_from(">HH", data, at + 3)
            height, width = max((height, width), one, key=lambda size: size[0] * size[1])
        at += length


def _count_png(data: bytes) -> _Count:
    at, parts = 8, _Parts()
    while at < len(data) and data[at + 4 : at + 8] != b"IEND":
        parts.add()
        at += 12 + int.from_bytes(data[at : at + 4])
    return _plain(*struct.unpack_from(">II", data, 16))


def _count_gif(data: bytes) -> _Count:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, parts = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), _Parts()
    while data[at] != ord(","):
        if data[at] == ord(";"):
            raise _DamagedError
        parts.add(_EXTENSION_PARTS if data[at] == ord("!") else 1)
        if data[at] != ord("!"):
            at += 1
            continue
        at += 2
        while data[at]:
            parts.add()
            at += 1 + data[at]
        at += 1
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    # Pillow enlarges the screen so that the first frame fits.
    return _plain(max(width, left + frame_width), max(height, top + frame_height))


def _count_bmp(data: bytes) -> _Count:
    return _count_dib(data, 14)


def _count_dib(data: bytes, at: int) -> _Count:
    is_old = data[at : at + 4] == b"\x0c\0\0\0"
    width, height = struct.unpack_from("<HH" if is_old else "<ii", data, at + 4)
    return _plain(abs(width), abs(height))


_PPM = re.compile(rb"P.(?:\s|#[^\r\n]*[\r\n])+(\d+)(?:\s|#[^\r\n]*[\r\n])+(\d+)", re.DOTALL)


def _count_ppm(data: bytes) -> _Count:
    found = _PPM.match(data[:65536])
    if found is None:
        raise _DamagedError
    return _plain(*(int(text[:10]) for text in found.groups()))


def _count_webp(data: bytes) -> _Count:
    """Read the size of the canvas (RFC 9649, section 2.5 to 2.7): Pillow sets two of them aside to open a file of 34 bytes."""
    kind = data[12:16]
    if len(data) >= 30 and kind == b"VP8X":
        return _plain(*(1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27)))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return _plain(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _plain(width & 0x3FFF, height & 0x3FFF)
    raise _DamagedError


# ── TIFF ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_TYPE_BYTES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 16: 8, 17: 8}


def _count_tiff(data: bytes) -> _Count:
    order = "little" if data[:2] == b"II" else "big"

    def number(at: int, length: int) -> int:
        if at + length > len(data):
            raise _DamagedError
        return int.from_bytes(data[at : at + length], order)

    is_big = 43 in data[2:4]
    address, count, entry, value = (8, 8, 20, 12) if is_big else (4, 2, 12, 8)
    start = number(8 if is_big else 4, address)
    # Of two entries with one tag Pillow takes the last and libtiff the first; so the largest counts.
    found = dict.fromkeys((_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT), 0)
    for place in range(number(start, count)):
        at = start + count + entry * place
        tag, kind = number(at, 2), number(at + 2, 2)
        if tag in found:
            found[tag] = max(found[tag], number(at + value, _TYPE_BYTES.get(kind, address)))
    width, height, tile_width, tile_height = found.values()
    if tile_width * tile_height <= width * height:
        return _plain(width, height)
    what = f"one of its tiles has {tile_width} x {tile_height}"
    return (height, width), tile_width * tile_height, what


# ── icons ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _count_icon(data: bytes) -> _Count:
    """Read the headers of all images in an icon: its directory has one byte for a side, and Pillow decodes to open it."""
    claimed, largest, what = (0, 0), 0, ""
    for place in range(struct.unpack_from("<H", data, 4)[0]):
        width, height, *_, at = struct.unpack_from("<BBHIII", data, 6 + 16 * place)
        size = height or 256, width or 256
        claimed = max(claimed, size, key=lambda one: one[0] * one[1])
        is_png = data[at : at + 4] == b"\x89PNG"
        (height, width), pixels, _ = _count_png(data[at:]) if is_png else _count_dib(data, at)
        if pixels > largest:
            largest, what = pixels, f"an image inside has {width} x {height}"
    return claimed, largest, what if largest > claimed[0] * claimed[1] else ""


# ── boxes: JPEG 2000 and AVIF ─────────────────────────────────────────────────────────────────────────────────────────

_CODESTREAM = b"\xff\x4f\xff\x51"
_TILE_HEADER_PIXELS = 1_000
"""OpenJPEG sets 3.8 kB aside for each tile and component before it reads any: a file of 180 bytes took 750 MB."""


_EXTRA_BYTES = {b"meta": 4, b"iinf": 6}
_CONTAINERS = frozenset((b"jp2h", b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco", b"iinf"))  # fmt: skip


def _boxes(data: bytes, parts: _Parts) -> Iterator[tuple[bytes, int, int]]:
    """Give the type of each box that is no container, and where its contents begin and end (ISO 14496-12, 4.2)."""
    left = [(0, len(data))]
    while left:
        start, outer_end = left.pop()
        if start + 8 > outer_end:
            continue
        parts.add()
        length, kind = struct.unpack_from(">I4s", data, start)
        at = start + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at)
            at += 8
        end = min(outer_end, start + length) if length else outer_end
        if end < at:
            raise _DamagedError
        left.append((end, outer_end))
        if kind in _CONTAINERS:
            extra = 2 if kind == b"iinf" and data[at] else 0
            left.append((at + _EXTRA_BYTES.get(kind, 0) + extra, end))
        else:
            yield kind, at, end


def _count_jpeg_2000(data: bytes) -> _Count:
    claimed: set[Size] = set()
    start = 0
    if not data.startswith(_CODESTREAM):
        for kind, start, _end in _boxes(data, _Parts()):
            if kind == b"ihdr":
                claimed.add(_size_at(data, start))
            elif kind == b"jp2c":
                break
    if data[start : start + 4] != _CODESTREAM:
        raise _DamagedError
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(">8IH", data, start + 8)  # fmt: skip
    width, height = right - left, bottom - top
    if min(width, height, tile_width, tile_height, components) <= 0:
        raise _DamagedError
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    for size in claimed - {(height, width)}:
        raise _other_size(size, (height, width))
    pixels = width * height * max(1, components // 4) + tiles * components * _TILE_HEADER_PIXELS
    return (height, width), pixels, f"it has {tiles} tiles and {components} components"


def _size_at(data: bytes, at: int) -> Size:
    """Return two numbers of four bytes as ``(height, width)``."""
    height, width = struct.unpack_from(">II", data, at)
    return height, width


def _other_size(claimed: Size, found: Size) -> TooCostlyError:
    return TooCostlyError(
        f"its header claims {claimed[1]} x {claimed[0]} pixels, but its data has {found[1]} x {found[0]}"
    )


# ── AVIF ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_SEQUENCE_HEADER, _TEMPORAL_DELIMITER = 1, 2


def _count_heif(data: bytes) -> _Count:
    """Return the largest size in the boxes; libheif refuses a stream that is larger than its box says."""
    sizes = [
        struct.unpack_from(">II", data, at + 4)
        for kind, at, _ in _boxes(data, _Parts())
        if kind == b"ispe"
    ]
    if not sizes:
        raise _DamagedError
    return _plain(*max(sizes, key=lambda size: size[0] * size[1]))


def _count_avif(data: bytes) -> _Count:
    """Compare the sizes in the boxes with those in the AV1 streams: libavif decodes a stream as it is, then scales it."""
    parts = _Parts()
    leaves = list(_boxes(data, parts))
    claimed: list[Size] = []
    streams: list[bytes] = []
    tracks: list[bytes] = []
    types: dict[int, bytes] = {}
    num_bytes = 0
    inner = next((at for kind, at, _ in leaves if kind == b"idat"), 0)
    for kind, at, end in leaves:
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", data, at + 4)
            claimed.append((height, width))
        elif kind == b"tkhd":
            width, height = struct.unpack_from(">II", data, end - 8)
            claimed.append((height >> 16, width >> 16))
        elif kind == b"infe":
            bits = 32 if data[at] > 2 else 16
            place = at + 4 + bits // 8 + 2
            types[int.from_bytes(data[at + 4 : at + 4 + bits // 8])] = data[place : place + 4]
        elif kind in (b"stco", b"co64") and data[at + 4 : at + 8] != bytes(4):  # Offsets of a track
            (first,) = struct.unpack_from(">I" if kind == b"stco" else ">Q", data, at + 8)
            tracks.append(data[first:])
            if len(tracks) > 2:  # Colour and alpha
                raise _DamagedError
    for kind, at, end in leaves:
        if kind == b"iloc":
            for item, extents in _items(data[at:end], inner, parts):
                if types.get(item) == b"grid":
                    claimed.append(_grid_size(data, extents))
                elif types.get(item) == b"av01":
                    num_bytes += sum(length for _, length in extents)
                    if num_bytes > len(data):
                        raise TooCostlyError("its images take more bytes than the file has")
                    streams.append(
                        b"".join(data[first : first + length] for first, length in extents)
                    )
    if not claimed or not streams + tracks:
        raise _DamagedError
    largest = max(claimed, key=lambda size: size[0] * size[1])
    most = 0
    for group in (streams, tracks):  # A film has both, one of which is decoded.
        pixels = 0  # The tiles of a grid and the alpha channel are streams of their own.
        for stream in group:
            sequences = list(_sequences(stream, parts))
            if not sequences:
                raise _DamagedError
            for size, _ in sequences:
                if size not in claimed:
                    raise _other_size(largest, size)
            pixels += max(pixels for _, pixels in sequences)
        most = max(most, pixels)
    return largest, most, f"its {len(streams)} images take {most}"


def _items(box: bytes, inner: int, parts: _Parts) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Give the number of each item, and the starts and lengths of its parts in the file (ISO 14496-12, 8.11.3)."""
    bits = _Bits(box)
    version = bits.take(8)
    bits.take(24)
    offset, length, base = (8 * bits.take(4) for _ in range(3))
    index = 8 * bits.take(4)
    wide = 32 if version == 2 else 16
    for _ in range(bits.take(wide)):
        parts.add()
        item = bits.take(wide)
        method = bits.take(16) & 15 if version else 0
        bits.take(16)
        start = bits.take(base) + (inner if method == 1 else 0)
        extents: list[tuple[int, int]] = []
        for _ in range(bits.take(16)):
            parts.add()
            bits.take(index if version else 0)
            extents.append((start + bits.take(offset), bits.take(length)))
        yield item, extents


def _grid_size(data: bytes, extents: list[tuple[int, int]]) -> Size:
    """Return the size of an image that is put together from tiles (ISO 23008-12, 6.6.2.3)."""
    start = extents[0][0] if extents else len(data)
    width, height = struct.unpack_from(">II" if data[start + 1] & 1 else ">HH", data, start + 4)
    return height, width


def _sequences(stream: bytes, parts: _Parts) -> Iterator[tuple[Size, int]]:
    """Give the size of the frames that each sequence header of one image allows, and their most pixels (AV1, 5.3 to 5.5)."""
    at = images = 0
    while at < len(stream) and images < 2:
        parts.add()
        head = stream[at]
        kind, has_extension, has_size = head >> 3 & 15, head >> 2 & 1, head >> 1 & 1
        at += 1 + has_extension
        length = 0 if has_size else len(stream) - at
        for place in range(8 if has_size else 0):
            length |= (stream[at] & 127) << 7 * place
            at += 1
            if stream[at - 1] < 128:
                break
        images += kind == _TEMPORAL_DELIMITER
        if kind == _SEQUENCE_HEADER:
            yield _sequence_size(_Bits(stream[at : at + min(length, 1024)]))
        at += length


def _sequence_size(bits: _Bits) -> tuple[Size, int]:
    bits.take(4)
    is_reduced = bits.take(1)
    if is_reduced:
        bits.take(5)
    else:
        delay_bits = 0
        if bits.take(1):  # Times of frames
            bits.take(64)
            if bits.take(1):
                zeros = 0
                while not bits.take(1):
                    zeros += 1
                bits.take(zeros)
            if bits.take(1):
                delay_bits = 1 + bits.take(5)
                bits.take(32 + 5 + 5)
        has_display_delay = bits.take(1)
        for _ in range(1 + bits.take(5)):  # Operating points
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delay_bits and bits.take(1):
                bits.take(2 * delay_bits + 1)
            if has_display_delay and bits.take(1):
                bits.take(4)
    width_bits, height_bits = 1 + bits.take(4), 1 + bits.take(4)
    width, height = 1 + bits.take(width_bits), 1 + bits.take(height_bits)
    # A frame of a film may state a size of its own in as many bits.
    pixels = width * height if is_reduced else 1 << width_bits + height_bits
    return (height, width), pixels


class _Bits:
    """Takes numbers of any number of bits from bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        """Return the next number; raise a _DamagedError at the end."""
        start, self._at = self._at, self._at + count
        if self._at > 8 * len(self._data):
            raise _DamagedError
        part = self._data[start // 8 : -(-self._at // 8)]
        return int.from_bytes(part) >> -self._at % 8 & (1 << count) - 1


_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II": "TIFF",
    b"MM": "TIFF",
    b"\0\0\x01\0": "ICO",
    _CODESTREAM: "JPEG2000",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"P": "PPM",
}
_COUNTERS: dict[str, Callable[[bytes], _Count]] = {
    "JPEG": _count_jpeg,
    "PNG": _count_png,
    "GIF": _count_gif,
    "BMP": _count_bmp,
    "TIFF": _count_tiff,
    "PPM": _count_ppm,
    "WEBP": _count_webp,
    "ICO": _count_icon,
    "JPEG2000": _count_jpeg_2000,
    "AVIF": _count_avif,
    "HEIF": _count_heif,
}
_HAS_HIDDEN_SIZES = ("TIFF", "ICO", "JPEG2000", "AVIF")
"""Where the size that Pillow states is not what is decoded; other sizes are checked again once the file is open."""
