"""Measure a machine: what each part of training and predicting costs on it, and what would be faster."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
