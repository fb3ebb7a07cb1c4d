"""A picture file and how it is prepared in, the key of its pixels in a cache out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.data.images.decode import DECODER_VERSION

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureKey:
    """Everything that the pixels of a prepared picture depend on; a changed file gets another key.

    Attributes:
        path: The file, absolute.
        num_bytes: Its size.
        modified_ns: When it was last written, nanoseconds since 1970.
        preparation: What is done to the picture after decoding, in words.
        decoder: Version of the decoder.
    """

    path: str
    num_bytes: int
    modified_ns: int
    preparation: str
    decoder: str = DECODER_VERSION

    @classmethod
    def of_file(cls, path: Path | str, *, preparation: str) -> PictureKey:
        """Return the key of a file as it is now.

        Args:
            path: The file.
            preparation: What is done to the picture after decoding, in words.

        Raises:
            OSError: There is no such file.
        """
        facts = os.stat(path)  # noqa: PTH116 (a third of the time of Path.stat, and paid for every picture)
        return cls(
            path=os.path.abspath(path),  # noqa: PTH100 (Path.resolve follows links)
            num_bytes=facts.st_size,
            modified_ns=facts.st_mtime_ns,
            preparation=preparation,
        )

    @property
    def slot(self) -> tuple[str, str]:
        """The file and its preparation: what stays the same when the file changes."""
        return self.path, self.preparation
