"""Read the files of a request, and refuse by their headers those that would take too much to decode.

Files stay in memory and are never written anywhere. A file that passes may still be damaged, which decoding finds; one that does
not pass would take far more memory or time than an image of the size that people send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import ParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from vizsla.data.images.decoded_size import (
    TooCostlyError,
    decoded_pixels,
    format_of,
    jpeg_size,
)
from vizsla.serve.limits import DEFAULT_FORMATS, RefusedError, body_too_large

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection

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
_JPEG_SCALES = (8, 4, 2)

_CANVASES = {"WEBP": 3, "AVIF": 3, "JPEG2000": 4}
"""How often Pillow holds an image while it decodes it: 16 bytes per pixel were measured for WebP, 20 for JPEG 2000, 6 for PNG."""


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
    except (MultiPartException, ParseError) as error:  # Older releases let the second through.
        why = str(error.__cause__ or error).rstrip(".")
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


def screen(
    data: bytes,
    *,
    max_pixels: int,
    formats: Collection[str] = DEFAULT_FORMATS,
    cover: Size | None = None,
) -> Screening:
    """Return whether the bytes of a file may be decoded, and with how many pixels.

    JPEGs are decoded at the smallest of libjpeg's scales that covers ``cover``, ``(height, width)``; None for all pixels.
    """
    if not data:
        return Screening(refusal="not an image: the file is empty (0 bytes)")
    kind = format_of(data)
    if kind and kind not in formats:
        name = "HEIC" if kind == "HEIF" else kind
        return Screening(
            refusal=f"unsupported kind: {name}, which is not taken here; convert it to JPEG or PNG"
        )
    try:
        pixels = decoded_pixels(data, max_pixels=max_pixels)
    except TooCostlyError as error:
        return Screening(refusal=f"damaged: {error}" if error.__cause__ else str(error))
    if kind != "JPEG" or not pixels:
        return Screening(pixels=pixels * _CANVASES.get(kind, 1))
    scans = num_scans(data, most=MOST_SCANS)
    if scans > MOST_SCANS:
        why = f"it is a JPEG of more than {MOST_SCANS} scans, which would take too long to decode"
        return Screening(refusal=why)
    if (
        scans > 1 or cover is None
    ):  # With several scans libjpeg holds the whole image, whatever the scale.
        return Screening(pixels=pixels)
    height, width = jpeg_size(data)
    scale = _jpeg_scale((height, width), cover=cover)
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


def _jpeg_scale(size: Size, *, cover: Size) -> int:
    """Return the factor by which Pillow shrinks a JPEG while decoding it."""
    shrinks = min(side // needed for side, needed in zip(size, cover, strict=True))
    return next((scale for scale in _JPEG_SCALES if shrinks >= scale), 1)
