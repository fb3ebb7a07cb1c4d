"""vizsla: turn labelled images into a strong and honest image classifier.

The public names stand in one place, ``__init__.pyi``, for type checkers and for this module alike. A name is imported
when it is first used (PEP 562), so ``import vizsla`` and ``vizsla --help`` do not wait for torch.

OpenMP reads how its threads are to wait when torch is imported, so that is set here, before anything can import it.
"""

import sys

import lazy_loader

from vizsla.cores import prepare_threads

__version__ = "0.1.0"

_load, _, _names = lazy_loader.attach_stub(__name__, __file__)
# Checkers read the stub.
__all__ = ["__version__", *_names]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]

prepare_threads()


def __getattr__(name: str) -> object:
    if name in __all__:
        return _load(name)
    # name= and obj= let Python add "Did you mean ...?" from __dir__.
    raise AttributeError(
        f"module 'vizsla' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )


def __dir__() -> list[str]:
    return list(__all__)
