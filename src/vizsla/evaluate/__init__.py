"""Numbers with intervals and plots, from predictions alone: nothing here runs a model."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
