"""``from vizsla.classic.dataset import *`` works like ``from vizsla.classic import *``: of the original, only the name was changed."""

from vizsla import classic

__all__ = list(classic.__all__)  # pyright: ignore[reportUnsupportedDunderAll]

globals().update({name: getattr(classic, name) for name in __all__})
