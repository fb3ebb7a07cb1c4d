"""The body of a request in, the uploaded files in it out; they stay in memory and are never written anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.serve.limits import RefusedError, body_too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from vizsla.serve.limits import Limits

_MOST_FIELDS = 16
"""Parts of a form that are no files; they are passed over."""

_LONGEST_PART_HEADER = 8192
_FORM = "multipart/form-data"
_RAW = ("image/", "application/octet-stream")
_WANTED = (
    "Send pictures as files of a multipart/form-data form, or one picture as the body with the content type image/... "
    "or application/octet-stream."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that a client sent.

    Attributes:
        name: As the client gave it: any text, for showing only.
        data: Its bytes.
    """

    name: str
    data: bytes


async def read_body(chunks: AsyncIterator[bytes], *, limits: Limits) -> bytes:
    """Return a request's body.

    Args:
        chunks: As they arrive.
        limits: How long it may be.

    Raises:
        RefusedError: It is longer, whatever its headers said (413).
    """
    body = bytearray()
    async for chunk in chunks:
        if len(body) + len(chunk) > limits.body_bytes:
            raise body_too_large(limits)
        body += chunk
    return bytes(body)


def check_content_type(content_type: str) -> None:
    """Find out before the body is read whether it can hold pictures.

    Args:
        content_type: As the header says it; an empty one counts as a picture.

    Raises:
        RefusedError: It cannot (415).
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != _FORM and not kind.startswith(_RAW):
        raise RefusedError(415, f"The content type {kind[:80]!r} is not taken. {_WANTED}")


def is_form(content_type: str) -> bool:
    """Return whether a body of this content type is a form, which has to be taken apart."""
    return content_type.partition(";")[0].strip().lower() == _FORM


def uploads_of(body: bytes, *, content_type: str, name: str, limits: Limits) -> list[Upload]:
    """Return the files in a body; takes milliseconds for large ones, so not in the event loop.

    Args:
        body: All of it.
        content_type: As the header says it, checked before.
        name: For a body that is a picture itself.
        limits: How many there may be.

    Raises:
        RefusedError: There is none, the form is cut off or damaged (400), or there are too many (413).
    """
    if not is_form(content_type):
        if not body:
            raise RefusedError(400, f"The body is empty. {_WANTED}")
        return [Upload(name=name, data=body)]
    uploads = _files_of_form(body, content_type=content_type, limits=limits)
    if not uploads:
        raise RefusedError(400, f"The form has no file. {_WANTED}")
    return uploads


class _PartOfForm:
    """What is known so far of the part of a form that is being read."""

    def __init__(self) -> None:
        self.header_length = 0
        self.header_name = b""
        self.header_value = b""
        self.disposition = b""
        self.data: bytearray | None = bytearray()
        self.name = ""


class _Form:
    """Collects the files of a form as its parser calls.

    Args:
        limits: How many there may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._part = _PartOfForm()
        self._num_fields = 0
        self.files: list[tuple[str, bytearray]] = []
        self.ended = False

    def begin(self) -> None:
        self._part = _PartOfForm()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._part.header_name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._part.header_value += data[start:end]

    def _count_header(self, length: int) -> None:
        self._part.header_length += length
        if self._part.header_length > _LONGEST_PART_HEADER:
            raise RefusedError(400, "A part of the form has headers that are too long.")

    def header_end(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            part.disposition = part.header_value
        part.header_name = part.header_value = b""

    def headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._part.disposition)
        name = options.get(b"filename")
        if name is None:
            self._part.data = None
            self._num_fields += 1
            if self._num_fields > _MOST_FIELDS:
                raise RefusedError(400, f"The form has more than {_MOST_FIELDS} fields.")
            return
        if len(self.files) >= self._limits.pictures:
            raise RefusedError(
                413,
                f"The form has more than {self._limits.pictures} pictures. Send them in several requests.",
            )
        self._part.data = bytearray()
        self.files.append((name.decode("utf-8", errors="replace"), self._part.data))

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._part.data is not None:
            self._part.data += data[start:end]

    def end(self) -> None:
        self.ended = True

    def callbacks(self) -> Mapping[str, object]:
        return {
            "on_part_begin": self.begin,
            "on_part_data": self.data,
            "on_header_field": self.header_name,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_end": self.end,
        }


def _files_of_form(body: bytes, *, content_type: str, limits: Limits) -> list[Upload]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(content_type.encode("latin-1", errors="replace"))
    boundary = options.get(b"boundary")
    if not boundary:
        raise RefusedError(400, f"The form names no boundary between its parts. {_WANTED}")
    form = _Form(limits)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # pyright: ignore[reportArgumentType] (its own type is a TypedDict)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, f"The form is damaged: {error}. {_WANTED}") from error
    if not form.ended:
        raise RefusedError(400, "The form is cut off: it ends before its last part does.")
    return [Upload(name=name, data=bytes(data)) for name, data in form.files]
