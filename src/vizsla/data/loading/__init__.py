"""Read images in threads and put them into batches, in an order that (seed, epoch, row) decides."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
