"""Look at a data set before it is trained on: what is wrong with it, and what gives the classes away."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
