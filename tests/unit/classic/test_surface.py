"""The names that a notebook gets, whichever of the original's modules it imports from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

from vizsla import classic

FULL = ("imports", "conv_learner", "model", "dataset", "sgdr", "early")


def starred(module: str) -> dict[str, object]:
    found: dict[str, object] = {}
    exec(f"from {module} import *", found)  # noqa: S102
    found.pop("__builtins__")
    return found


def test_the_list_of_names_is_what_there_is():
    assert sorted(classic.__all__) == sorted(set(classic.__all__))
    assert set(starred("vizsla.classic")) == set(classic.__all__)


def test_the_modules_of_the_original_give_all_names_or_their_part():
    for module in (*FULL, "transforms", "plots"):
        found = starred(f"vizsla.classic.{module}")
        assert set(found) <= set(classic.__all__)
        assert set(found) == set(classic.__all__) or module not in FULL
        others = {name for name in found if found[name] is not getattr(classic, name)}
        assert others == ({"ConvLearner"} if module == "early" else set())
    assert inspect.isfunction(classic.plots)  # though there is a module of this name


def test_architectures_are_functions_with_their_names():
    assert classic.resnet34.__name__ == "resnet34"
    assert classic.resnet34 is not classic.resnet50
    assert all(
        callable(getattr(classic, name)) for name in ("vgg16", "dn121", "wrn", "inception_4")
    )


def test_public_things_are_documented():
    things = [getattr(classic, name) for name in classic.__all__]
    own = [
        thing for thing in things if getattr(thing, "__module__", "").startswith("vizsla.classic")
    ]
    assert [thing.__name__ for thing in own if not inspect.getdoc(thing)] == []


def test_the_import_sets_how_arrays_print_and_nothing_else(python: Callable[..., str]):
    program = """
import json, random, sys, warnings
import numpy, torch
import matplotlib.pyplot, pandas
state = lambda: [repr(random.getstate()), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
                 repr(warnings.filters), torch.get_num_threads(), matplotlib.get_backend()]
before = state()
import vizsla.classic
heavy = sorted({"torchvision", "timm", "sklearn", "IPython"} & sys.modules.keys())
print(json.dumps([before == state(), heavy, repr(numpy.array([[-7e-05, -9.63393]], dtype=numpy.float32))]))
"""
    unchanged, heavy, shown = json.loads(python("-c", program, env={"MPLBACKEND": "agg"}))
    assert unchanged
    assert heavy == []
    assert shown == "array([[-0.00007, -9.63393]], dtype=float32)"
