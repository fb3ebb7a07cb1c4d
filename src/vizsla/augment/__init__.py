"""From batches of uint8 images to augmented float images, with one interpolation."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
