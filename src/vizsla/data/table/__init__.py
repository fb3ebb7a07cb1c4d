"""Find images and labels, split and check them: a folder or a table becomes one checked ImageTable."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
