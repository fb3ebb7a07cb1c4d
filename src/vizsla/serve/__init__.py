"""A web page and a JSON interface that classify images with a model file, for one machine or a trusted network."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
