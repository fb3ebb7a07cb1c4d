"""A picture file in; the uint8 pixels that validation or one training step sees of it out, from the cache where it has them.

Arrays are HWC as Pillow and the cache have them. H, W: sides.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vizsla.data.cache.key import PictureKey
from vizsla.data.images.decode import (
    Truncated,
    is_worthwhile,
    open_picture,
    plain_pixels,
    read_bytes,
    source_name,
)
from vizsla.data.images.item_transforms import ItemPipeline, ItemTransforms, item_pipeline
from vizsla.data.images.sizing import Resize, resampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from vizsla.data.cache.cache import PictureCache
    from vizsla.data.cache.device import Place
    from vizsla.data.images.item_transforms import Sizing
    from vizsla.types import Size


class PictureReader:
    """Turns one picture into the pixels that training or validation see; the same for a batch and for a single file.

    Args:
        resize: Brings all pictures to one size; None leaves each at its own. Or a list of item transforms.
        cache: Keeps what was read from files.
        truncated: What to do about JPEGs that end too early, see ``open_picture``.
        on_decoded: Called, in the thread that reads, for each file that is decoded, with its path and the (height, width) of
            what was decoded: smaller than what is asked for only where the picture is.

    Raises:
        ConfigError: The item transforms cannot work.
    """

    def __init__(
        self,
        *,
        resize: ItemTransforms | ItemPipeline,
        cache: PictureCache,
        truncated: Truncated = "strict",
        on_decoded: Callable[[Path | str, Size], None] | None = None,
    ) -> None:
        self.on_decoded = on_decoded
        self.items = item_pipeline(resize)
        self.cache = cache
        self.truncated: Truncated = truncated
        lenient = "" if truncated == "strict" else ", truncated ones too"
        spec = f"{self.items.sizing!r} by {resampler()}{lenient}"
        self._preparations = (f"centred {spec}", f"strip {spec}")

    @property
    def resize(self) -> Sizing | None:
        """What brings pictures to one size; None leaves each at its own."""
        return self.items.sizing

    @property
    def num_draws(self) -> int:
        """Random numbers that ``read_window`` takes."""
        return self.items.num_draws

    @property
    def windows_are_slices(self) -> bool:
        """Whether a training view is a slice along the long side of the strip and nothing else, as ``Resize`` makes it."""
        return isinstance(self.items.sizing, Resize) and not (self.items.before or self.items.after)

    def read(self, source: Path | str | bytes, *, training: bool = False) -> NDArray[np.uint8]:
        """Return the pixels of one picture.

        Args:
            source: A file, or the bytes of one (which are not cached).
            training: Give the strip that random windows are taken of, not the centred picture.

        Returns:
            uint8 ``(H, W, 3)``, read-only unless a function of the user's own made it.

        Raises:
            PictureError: The picture cannot be read; the message names it and says why.
            ConfigError: An item transform failed; the message names it and the picture.
        """
        kept = self._kept(source, training=training)
        return kept if training else self.items.finished(kept, name=source_name(source))

    def read_window(
        self, source: Path | str | bytes, *, draws: Sequence[float]
    ) -> NDArray[np.uint8]:
        """Return what one training step sees of a picture.

        Args:
            source: A file, or the bytes of one.
            draws: ``num_draws`` random numbers in [0, 1).

        Returns:
            uint8 ``(H, W, 3)`` of the size; it may be a view of what the cache keeps, and read-only.

        Raises:
            PictureError: The picture cannot be read; the message names it and says why.
            ConfigError: An item transform failed; the message names it and the picture.
        """
        kept = self._kept(source, training=True)
        return self.items.training_view(kept, draws=draws, name=source_name(source))

    def place(self, path: Path | str, *, training: bool) -> Place | None:
        """Return where the picture of a file lies on the device, if the cache keeps it there and the file is unchanged.

        Args:
            path: The file.
            training: As for ``read``.
        """
        store = self.cache.device_store
        if store is None:
            return None
        try:
            # Every picture of every epoch comes by here: the key is made only where the path is not known as it is written.
            slot = os.fspath(path), self._preparations[training]
            if store.has(slot):
                facts = os.stat(path)  # noqa: PTH116 (a third of the time of Path.stat)
                return store.unchanged(slot, facts.st_size, facts.st_mtime_ns)
            return store.locate(self.key(path, training=training))
        except OSError:
            return None

    def prepare(self, picture: Image.Image, *, training: bool = False) -> NDArray[np.uint8]:
        """Return the pixels of a picture that is open already.

        Args:
            picture: Upright RGB, as ``open_picture`` and ``to_rgb`` give it.
            training: As for ``read``.

        Returns:
            uint8 ``(H, W, 3)``.

        Raises:
            ConfigError: An item transform failed.
        """
        name = "given as a picture in memory"
        kept = self.items.kept(picture, training=training, name=name)
        return kept if training else self.items.finished(kept, name=name)

    def _kept(self, source: Path | str | bytes, *, training: bool) -> NDArray[np.uint8]:
        if isinstance(source, bytes) or self.items.before:
            return self._make(source, training=training)
        try:
            key = self.key(source, training=training)
        except OSError:
            return self._make(source, training=training)  # It says what is wrong with the file.
        known = self.cache.find(key)
        if known is not None:
            return known
        pixels = self._make(source, training=training)
        with suppress(OSError):
            if self.key(source, training=training) == key:  # Not written to meanwhile.
                self.cache.keep(key, pixels)
        return pixels

    def key(self, path: Path | str, *, training: bool) -> PictureKey:
        """Return the key of what the cache keeps of a file as it is now.

        Args:
            path: The file.
            training: As for ``read``.

        Raises:
            OSError: There is no such file.
        """
        return PictureKey.of_file(path, preparation=self._preparations[training])

    def _make(self, source: Path | str | bytes, *, training: bool) -> NDArray[np.uint8]:
        cover = self.items.cover(training=training)
        data: bytes | None = None
        resize = self.items.sizing
        may_be_plain = not self.items.before and is_worthwhile()
        if may_be_plain and isinstance(resize, Resize) and resize.method != "pad":
            data = read_bytes(source)
            decoded = plain_pixels(data, cover=resize.size)
            if decoded is not None:
                return self._made_plain(decoded, source, resize=resize, training=training)
        picture = open_picture(source, cover=cover, truncated=self.truncated, data=data)
        if self.on_decoded is not None and not isinstance(source, bytes):
            self.on_decoded(source, (picture.height, picture.width))
        return self.items.kept(picture, training=training, name=source_name(source))

    def _made_plain(
        self,
        decoded: NDArray[np.uint8],
        source: Path | str | bytes,
        *,
        resize: Resize,
        training: bool,
    ) -> NDArray[np.uint8]:
        if self.on_decoded is not None and not isinstance(source, bytes):
            self.on_decoded(source, (decoded.shape[0], decoded.shape[1]))
        pixels = resize.pixels_of(decoded, training=training)
        pixels.setflags(write=False)
        return pixels
