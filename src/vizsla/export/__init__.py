"""Take a model elsewhere: ONNX, torch.export, the hub; and verify what was written."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
