"""Train a network: the loop, the learner, schedules, losses, metrics, checkpoints."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
