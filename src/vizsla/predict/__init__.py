"""Answer with a model file: one image, or a stream of paths that survives a kill."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
