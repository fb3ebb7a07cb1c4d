"""Read an image file: the uint8 pixels that validation or one training step sees of it, from the cache if it has them.

Arrays are HWC as Pillow and the cache have them. H, W: sides.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vizsla.data.cache.cache import ImageKey
from vizsla.data.images.bit_depth import ALMOST_BLACK, check_bit_depth
from vizsla.data.images.cut_off import missing_part
from vizsla.data.images.decode import (
    Truncated,
    decode_image,
    is_worthwhile,
    plain_pixels,
    read_bytes,
    source_name,
)
from vizsla.data.images.item_transforms import (
    ItemPipeline,
    ItemTransforms,
    item_pipeline,
)
from vizsla.data.images.sizing import resampler, size_of
from vizsla.data.storage.storage import facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vizsla.data.cache.cache import ImageCache
    from vizsla.data.cache.device import Place
    from vizsla.data.images.sizing import Pixels, Sizing
    from vizsla.types import Size


class ImageReader:
    """Turns one image into the pixels that training or validation see; the same for a batch and for a single file.

    ``on_decoded`` is called, in the thread that reads, for each file that is decoded, with its path, the (height, width)
    that was decoded, smaller than the size asked for only if the image is, and what seems to be missing of it. ``bit_depth`` is
    that of 16-bit files; without it their values are scaled by 65,535, they are not cached, and ``on_wide`` is called with the
    path and the largest value of each.
    """

    def __init__(
        self,
        *,
        resize: ItemTransforms | ItemPipeline,
        cache: ImageCache,
        truncated: Truncated = "strict",
        on_decoded: Callable[[Path | str, Size, str], None] | None = None,
        bit_depth: int | None = None,
        on_wide: Callable[[Path | str, int], None] | None = None,
    ) -> None:
        self.on_decoded = on_decoded
        self.on_wide = on_wide
        self.bit_depth = check_bit_depth(bit_depth)
        self.items = item_pipeline(resize)
        self.cache = cache
        self.truncated: Truncated = truncated
        lenient = "" if truncated == "strict" else ", truncated ones too"
        depth = "" if bit_depth is None else f", {bit_depth} of 16 bits"
        spec = f"{self.items.sizing!r} by {resampler()}{lenient}{depth}"
        self._has_warned = False
        self._preparations = (f"centred {spec}", f"strip {spec}")

    @property
    def resize(self) -> Sizing | None:
        """What brings images to one size, if anything does."""
        return self.items.sizing

    @property
    def num_draws(self) -> int:
        """Random numbers of one training view."""
        return self.items.num_draws

    @property
    def windows_are_slices(self) -> bool:
        """Whether a training view is a slice of ``size`` of what is kept, and nothing else is done to images."""
        sizing, others = self.items.sizing, (*self.items.before, *self.items.after)
        return sizing is not None and sizing.num_windows() is not None and not others

    @property
    def scales_one_box(self) -> bool:
        """Whether one box of an image is kept, scaled: then other decoders than Pillow can help."""
        sizing = self.items.sizing
        if sizing is None or sizing.size is None or self.items.before:
            return False
        return sizing.presize_box(sizing.size, training=True) is not None

    def read(
        self,
        source: Path | str | bytes | Image.Image,
        *,
        training: bool = False,
        draws: Sequence[float] | None = None,
        on_image: Callable[[Image.Image], None] | None = None,
    ) -> Pixels:
        """Return the pixels of one image.

        Args:
            source: A file, the bytes of one, or an upright RGB image as ``decode_image`` returns it. Files are cached.
            training: Return what training takes its random views of, not what validation sees.
            draws: ``num_draws`` numbers in [0, 1): return the training view that they determine.
            on_image: Called with the upright RGB image if it has to be decoded, before it is brought to size.

        Returns:
            uint8 ``(H, W, 3)``; it may be a view of what the cache keeps, and is read-only unless a function that the user
            wrote made it.

        Raises:
            PictureError: The image cannot be read; the message names it and says why.
            ConfigError: An item transform failed; the message names it and the image.
        """
        items, sizing, name = self.items, self.items.sizing, source_name(source)
        training = training or draws is not None
        file = None if isinstance(source, bytes | Image.Image) else source
        key = None
        if file is not None and not items.before:
            with suppress(OSError, ValueError):  # Decoding says what is wrong with the file.
                key = self.key(file, training=training)
        kept, doubt = None if key is None else self.cache.find(key), ""
        if kept is None:
            image: Image.Image | Pixels | None = None
            if isinstance(source, Image.Image):
                image = source
            else:
                data, cover = read_bytes(source), items.cover(training=training)
                if cover is not None and self.scales_one_box and is_worthwhile():
                    image = plain_pixels(data, cover=cover)
                if image is None:
                    wide: list[int] = []
                    image = decode_image(
                        source,
                        cover=cover,
                        truncated=self.truncated,
                        data=data,
                        bit_depth=self.bit_depth,
                        on_wide=wide.append,
                    )
                    if wide:
                        self._note_wide(source, wide[0])
                        key = None  # Whoever decides on a depth must see it again.
                    doubt = "" if file is None else missing_part(image, data)
                if self.on_decoded is not None and file is not None:
                    self.on_decoded(file, size_of(image), doubt)
            if on_image is not None:
                on_image(image if isinstance(image, Image.Image) else Image.fromarray(image))
            if items.before:
                pixels = items.prepare(np.array(image), draws=draws, training=training, name=name)
                image = Image.fromarray(pixels)
            if sizing is None:
                kept = np.asarray(image)
            elif isinstance(image, Image.Image):
                kept = sizing.presize(image, training=training)
            else:
                kept = sizing.presize_pixels(image, training=training)
            kept.setflags(write=False)
            # What seems incomplete is not kept, or a later run would find it in a cache on disk and not say so.
            if file is not None and key is not None and not doubt:
                with suppress(OSError):  # Kept only if the file was not written to meanwhile.
                    if key == self.key(file, training=training):
                        self.cache.keep(key, kept)
        if training and draws is None:
            return kept
        return items.view(kept, draws=draws, name=name)

    def _note_wide(self, source: Path | str | bytes, largest: int) -> None:
        """Tell of an image of 16 bits where no depth was decided, and warn of one that comes out almost black."""
        if self.on_wide is not None and not isinstance(source, bytes):
            self.on_wide(source, largest)
        elif largest < ALMOST_BLACK and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"The 16-bit image {source_name(source)} has values up to {largest:,}, but is scaled by 65,535, "
                "which makes it almost black. If such images use fewer bits, give the number: bit_depth=12.",
                stacklevel=2,
            )

    def place(self, path: Path | str, *, training: bool) -> Place | None:
        """Return where the image of a file lies on the device, if the cache keeps it there and the file is unchanged."""
        store = self.cache.device_store
        if store is None:
            return None
        try:
            # Every image of every epoch passes here: a key is made only if the path is not known exactly as it is written.
            known = store.entry((os.fspath(path), self._preparations[training]))
            if known is None:
                return store.locate(self.key(path, training=training))
            key, place = known
            return place if key.fits(facts_of(path)) else None
        except OSError:
            return None

    def key(self, path: Path | str, *, training: bool) -> ImageKey:
        """Return the key of what the cache keeps of a file as it is now; raise an OSError if there is no such file."""
        return ImageKey.of_file(path, preparation=self._preparations[training])
