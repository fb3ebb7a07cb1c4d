"""No public name, method or argument is lost: what users may call is recorded, and changes to it are made on purpose.

After a change that is meant, write the record again: ``PYTHONPATH=src python -m tests.contract.test_signatures``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

RECORD = Path(__file__).parents[1] / "golden" / "signatures.json"
DOORS = ("vizsla", "vizsla.all", "vizsla.classic")
Signatures = dict[str, list[str]]


def shown(parameter: inspect.Parameter) -> str:
    """Return a parameter as it is called, with its default; types are left out, as pyright checks them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    kind = "keyword " if parameter.kind is inspect.Parameter.KEYWORD_ONLY else ""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return f"{kind}{stars.get(parameter.kind, '')}{parameter.name}"
    is_plain = isinstance(default, str | int | float | tuple | frozenset | None)
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(default)) if is_plain else type(default).__name__
    return f"{kind}{parameter.name}={text}"


def signature(thing: object) -> list[str] | None:
    """Return the parameters of what can be called, without self; None where Python does not know them."""
    try:
        parameters = list(inspect.signature(thing).parameters.values())  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    return [shown(each) for each in parameters if each.name not in ("self", "cls")]


def signatures_of(door: str) -> Signatures:
    """Return the parameters of all that is ours in a namespace, and of the public methods of its classes."""
    module = importlib.import_module(door)
    found: Signatures = {}
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        if not str(getattr(thing, "__module__", "")).startswith("vizsla"):
            continue
        found[name] = signature(thing) or []
        for method in dir(thing) if inspect.isclass(thing) else ():
            value = inspect.getattr_static(thing, method)
            function = getattr(value, "__func__", getattr(value, "fget", value))
            is_ours = str(getattr(function, "__module__", "")).startswith("vizsla")
            if not method.startswith("_") and is_ours and inspect.isfunction(function):
                found[f"{name}.{method}"] = signature(function) or []
    return found


def losses(before: Signatures, now: Signatures) -> list[str]:
    """Return in words what of the signatures before is no longer there, or would break a call."""
    lost = [f"{name} is gone" for name in before if name not in now]
    for name in before.keys() & now.keys():
        kept = [one for one in now[name] if one in before[name]]
        needed = [one for one in now[name] if one not in before[name] and "=" not in one and "*" not in one]  # fmt: skip
        if kept != before[name] or needed:
            lost.append(
                f"{name}\n  was ({', '.join(before[name])})\n  is  ({', '.join(now[name])})"
            )
    return sorted(lost)


@pytest.mark.usefixtures("star")
def test_no_public_name_or_argument_was_lost():
    recorded: dict[str, Signatures] = json.loads(RECORD.read_text("utf-8"))
    lost = {door: losses(recorded[door], signatures_of(door)) for door in DOORS}
    text = "\n".join(f"{door}: {line}" for door, lines in lost.items() for line in lines)
    assert not text, f"{text}\nIf that is meant, say so in CHANGELOG.md and renew: {__doc__}"


def test_lost_names_moved_arguments_and_new_needs_are_found():
    before = {"gone": [], "same": ["a", "b=1"], "moved": ["a", "b"], "other": ["a=1"], "more": []}
    now = {"same": ["a", "b=1", "c=2"], "moved": ["b", "a"], "other": ["a=2"], "more": ["new"]}
    found = losses(before, now)
    assert [line.split()[0] for line in found] == ["gone", "more", "moved", "other"]
    assert "was (a=1)\n  is  (a=2)" in found[-1]


if __name__ == "__main__":
    made = {door: signatures_of(door) for door in DOORS}
    doors = (
        f"{json.dumps(door)}: {{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in found.items())
        + "\n}"
        for door, found in made.items()
    )
    RECORD.write_text("{\n" + ",\n".join(doors) + "\n}\n", encoding="utf-8")
