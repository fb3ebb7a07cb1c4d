"""Read the files of a request, and refuse by their headers those that would take too much to decode.

Files stay in memory and are never written anywhere. A file that passes may still be damaged, which decoding finds; one that does
not pass would take far more memory or time than an image of the size that people send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from vizsla.data.images.decode import size_from_header
from vizsla.serve.limits import RefusedError, body_too_large

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request

    from vizsla.serve.limits import Limits
    from vizsla.types import Size

_MOST_FIELDS = 16
"""Parts of a form that are not files; they are ignored."""

_FORM = "multipart/form-data"
_RAW = ("image/", "application/octet-stream")
_WANTED = (
    "Send images as files of a multipart/form-data form, or one image as the body with the content type image/... or "
    "application/octet-stream."
)

MOST_SCANS = 200
"""Progressive JPEGs of cameras and editors have about 10 scans; each scan costs a pass over all pixels."""

SMALL_PIXELS = 12_000_000
"""Images with more decoded pixels are decoded one at a time."""

# In coded data a 255 is followed by 0 or by a restart marker; any other follower begins the next segment.
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
# A plain string is found 20 times as fast: 0.04 ms in a JPEG of 120 kB.
_SCAN = re.compile(rb"\xff\xda")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ICON_START = b"\x00\x00\x01\x00"
_JPEG_START = b"\xff\xd8"
_JPEG_SCALES = (8, 4, 2)

_WEBP_CANVASES = 3
"""Pillow holds a WebP image this many times while it decodes it: 16 bytes per pixel were measured, for PNG 6."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file from a client; its name is any text, only for display."""

    name: str
    data: bytes


def check_content_type(content_type: str) -> None:
    """Raise RefusedError (415) if the body, by its header, cannot hold images; an empty header counts as an image."""
    kind = _kind_of(content_type)
    if kind and kind != _FORM and not kind.startswith(_RAW):
        raise RefusedError(415, f"The content type {kind[:80]!r} is not taken. {_WANTED}")


async def read_uploads(request: Request, *, limits: Limits) -> list[Upload]:
    """Return the files in the body of a request whose content type was checked.

    Raises:
        RefusedError: There is no file, the form is cut off or damaged (400), there are too many files, or the body is too
            long, whatever its headers said (413).
    """
    chunks = _bounded(request.stream(), limits=limits)
    if _kind_of(request.headers.get("content-type", "")) == _FORM:
        return await _files_of_form(request, chunks, limits=limits)
    body = b"".join([chunk async for chunk in chunks])
    if not body:
        raise RefusedError(400, f"The body is empty. {_WANTED}")
    return [Upload(name=request.query_params.get("name", ""), data=body)]


class _Form(MultiPartParser):
    """Starlette's parser, which does not tell whether a form was complete, nor closes files of one that was not."""

    ended = False

    def on_end(self) -> None:
        self.ended = True

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


async def _files_of_form(
    request: Request, chunks: AsyncGenerator[bytes], *, limits: Limits
) -> list[Upload]:
    parser = _Form(request.headers, chunks, max_files=limits.images, max_fields=_MOST_FIELDS)
    parser.spool_max_size = limits.body_bytes + 1  # Above it files would go to the disk.
    try:
        form = await parser.parse()
    except MultiPartException as error:
        why = str(error.__cause__ or error.message).rstrip(".")
        if why.startswith("Too many files"):
            raise RefusedError(
                413,
                f"The form has more than {limits.images} images. Send them in several requests.",
            ) from error
        raise RefusedError(400, f"The form is damaged: {why}. {_WANTED}") from error
    files = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
    try:
        if not parser.ended:
            raise RefusedError(400, "The form is cut off: it ends before its last part does.")
        if not files:
            raise RefusedError(400, f"The form has no file. {_WANTED}")
        return [Upload(name=file.filename or "", data=await file.read()) for file in files]
    finally:
        parser.close()


async def _bounded(chunks: AsyncIterator[bytes], *, limits: Limits) -> AsyncGenerator[bytes]:
    num_bytes = 0
    async for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes > limits.body_bytes:
            raise body_too_large(limits)
        yield chunk


def _kind_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Screening:
    """What is known of an upload before it is decoded.

    Attributes:
        refusal: Why it is not decoded, else empty.
        pixels: How many will be in memory at once; 0 where the header does not tell, and decoding will find nothing.
    """

    refusal: str = ""
    pixels: int = 0

    @property
    def is_large(self) -> bool:
        """Whether decoding takes so much memory that images are decoded one at a time."""
        return self.pixels > SMALL_PIXELS


def screen(data: bytes, *, max_pixels: int, cover: Size | None = None) -> Screening:
    """Return whether the bytes of a file may be decoded, and with how many pixels.

    JPEGs are decoded at the smallest of libjpeg's scales that covers ``cover``, ``(height, width)``; None for all pixels.
    """
    if not data:
        return Screening(refusal="not an image: the file is empty (0 bytes)")
    if data[:4] == _ICON_START:
        # The size in its directory need not be that of the image inside.
        why = "unsupported kind: an icon (ICO), which is not taken here; convert it to PNG"
        return Screening(refusal=why)
    # Pillow sets aside two canvases to open a WebP file, which may be of 34 bytes: so its header is read here.
    webp = _webp_size(data)
    size = webp or size_from_header(data)
    if size is None:
        return Screening()  # Decoding says what is wrong.
    height, width = size
    if width * height > max_pixels:
        why = f"it has {width} x {height} pixels, more than {max_pixels / 1e6:g} million"
        return Screening(refusal=why)
    if data[:2] != _JPEG_START:
        return Screening(pixels=width * height * (_WEBP_CANVASES if webp else 1))
    scans = num_scans(data, most=MOST_SCANS)
    if scans > MOST_SCANS:
        why = f"it is a JPEG of more than {MOST_SCANS} scans, which would take too long to decode"
        return Screening(refusal=why)
    # With several scans libjpeg holds the whole image, whatever the scale.
    scale = 1 if scans > 1 or cover is None else _jpeg_scale(size, cover=cover)
    return Screening(pixels=-(-width // scale) * -(-height // scale))


def num_scans(data: bytes, *, most: int) -> int:
    """Return how many scans a JPEG has, counted up to ``most + 1``; 0 where it is damaged early."""
    place, count = 2, 0
    while count <= most:
        found = _NEXT_MARKER.search(data, place)
        if found is None:
            break
        marker, place = found.group(1)[0], found.end()
        if marker == _END_OF_IMAGE:
            break
        count += marker == _START_OF_SCAN
        place += int.from_bytes(data[place : place + 2], "big")
        if count and _SCAN.search(data, place) is None:
            break
    return count


def _webp_size(data: bytes) -> Size | None:
    """Return ``(height, width)`` as stored (RFC 9649, section 2.5 to 2.7), None for any other file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
        return height & 0x3FFF, width & 0x3FFF
    return None


def _jpeg_scale(size: Size, *, cover: Size) -> int:
    """Return the factor by which Pillow shrinks a JPEG while decoding it."""
    shrinks = min(side // needed for side, needed in zip(size, cover, strict=True))
    return next((scale for scale in _JPEG_SCALES if shrinks >= scale), 1)
