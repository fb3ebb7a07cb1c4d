"""What only a notebook needs: images, tensors and cards that show themselves, for looking and trying out."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
