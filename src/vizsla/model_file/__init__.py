"""The one model file: safetensors with a JSON manifest, written and opened without training code."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
