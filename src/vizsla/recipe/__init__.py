"""What `vizsla train` does: features first, a closed-form head, then end to end."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
