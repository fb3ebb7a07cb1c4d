"""Read a notebook or script written for fastai, without running it, and say what vizsla does not have and what to write instead.

The code is parsed, never run. Names are held against what ``vizsla.all`` (or ``vizsla.classic``, for fastai 0.7) really has, and
calls against the real signatures, so nothing here needs to change when vizsla grows. What to write instead stands in
``from_fastai.toml``. What cannot be known without running the code is left alone: a finding is meant to be true.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import sys
import textwrap
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from vizsla import all as modern
from vizsla import classic
from vizsla.errors import ConfigError
from vizsla.text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SUFFIXES = (".ipynb", ".py")

FASTAI_ROOTS = {"fastai", "fastai2", "fastbook", "fastcore", "fastdownload"}
"""Packages whose names ``vizsla.all`` stands in for."""

_OF_0_7 = {"conv_learner", "dataset", "model", "plots", "sgdr", "transforms"}
_OF_1 = {"basic_data", "basic_train", "callbacks", "datasets", "train", "vision", "widgets"}

_NOTEBOOK_NAMES = {"In", "Out", "_", "__", "___", "display", "exit", "get_ipython", "quit"}
_MAGIC_KEEPS_CODE = ("%%capture", "%%prun", "%%time", "%%timeit")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing in the code: ``cell`` counts code cells from 1, ``line`` the lines of the cell."""

    cell: int
    line: int
    code: str
    problem: str
    instead: str


@dataclass(frozen=True, kw_only=True)
class NotebookCheck:
    """What was found in a notebook or script.

    Attributes:
        written_for: "fastai 0.7", "fastai 1", "fastai 2" or "vizsla".
        num_cells: Code cells with code in them.
        imports: Import lines to change.
        missing: Names and arguments that are not there, in order.
        unread: Cells that are not Python, which were left out.
    """

    written_for: str
    num_cells: int
    imports: tuple[Finding, ...]
    missing: tuple[Finding, ...]
    unread: tuple[int, ...]


def check_notebook(path: Path) -> NotebookCheck:
    """Check a notebook (``.ipynb``) or script (``.py``) against the names and signatures of vizsla.

    Raises:
        ConfigError: The file cannot be read, or imports neither fastai nor vizsla.
    """
    sources = _code_cells(path)
    trees: dict[int, ast.Module] = {}
    unread: list[int] = []
    for number, source in enumerate(sources, 1):
        tree = _parsed(source)
        if tree is None:
            unread.append(number)
        else:
            trees[number] = tree
    written_for = _dialect(_imported_modules(trees.values()))
    if written_for is None:
        raise ConfigError(
            f"{quoted(path)} imports neither fastai nor vizsla, so there is nothing to check. To check a data set, give its folder or CSV file."
        )
    reader = _Reader(trees, written_for, _words_of(sources[number - 1] for number in unread))
    reader.read()
    return NotebookCheck(
        written_for=written_for,
        num_cells=len(sources),
        imports=tuple(reader.imports),
        missing=tuple(sorted(reader.missing, key=lambda each: (each.cell, each.line))),
        unread=tuple(unread),
    )


def _code_cells(path: Path) -> list[str]:
    """Return the source of each code cell that is not empty; a script is one cell."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            return [text]
        content = json.loads(text)
        cells = content["cells"] if "cells" in content else content["worksheets"][0]["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"] if "source" in cell else cell["input"]) for cell in code]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"Cannot read {quoted(path)} as a notebook or script ({type(error).__name__}: {error}). Save it again in Jupyter."
        ) from error
    return [source for source in sources if source.strip()]


def _parsed(source: str) -> ast.Module | None:
    """Return the tree of a cell, without what only notebooks understand; None if it is not Python."""
    if source.startswith("%%"):
        first, _, rest = source.partition("\n")
        source = "\n" + (rest if first.split()[0] in _MAGIC_KEEPS_CODE else "")
    for text in (source, "\n".join(map(_without_magic, source.split("\n")))):
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
    return None


def _without_magic(line: str) -> str:
    line = re.sub(r"^(\s*)%(?:time|timeit|prun)\s+(?=\S)", r"\1", line)
    line = re.sub(r"^(\s*[\w, ]+=\s*)[!%].*", r"\1None", line)
    return re.sub(
        r"^(\s*)(?:[!%?].*|[\w.\[\]()]+\?\??\s*|(?:pip|conda) install .*)$", r"\1pass", line
    )


def _imported_modules(trees: Iterable[ast.Module]) -> set[str]:
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _dialect(modules: set[str]) -> str | None:
    """Return what the code was written for, from the modules that it imports."""
    parts = [module.split(".") for module in modules]
    if ["vizsla", "classic"] in [names[:2] for names in parts]:
        return "fastai 0.7"
    if ["vizsla"] in [names[:1] for names in parts]:
        return "vizsla"
    theirs = [names for names in parts if names[0] in FASTAI_ROOTS]
    of_fastai = [names[1:] for names in theirs if names[0] == "fastai"]
    if not theirs:
        return None
    if any(names and names[0] in _OF_0_7 for names in of_fastai):
        return "fastai 0.7"
    if len(of_fastai) < len(theirs) or any("all" in names for names in of_fastai):
        return "fastai 2"
    # fastai 1 imported modules as a whole: "from fastai.vision import *".
    return "fastai 1" if any(len(n) <= 2 and n and n[0] in _OF_1 for n in of_fastai) else "fastai 2"


def _words_of(sources: Iterable[str]) -> set[str]:
    return {word for source in sources for word in re.findall(r"[A-Za-z_]\w*", source)}


@cache
def _replacements() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("vizsla").joinpath("from_fastai.toml").read_text(encoding="utf-8"))


Kind = Literal["object", "instance", "method"]


@dataclass(frozen=True)
class _Value:
    """What an expression is known to be: a class, function or module itself, an instance of a class, or a method of one."""

    kind: Kind
    thing: Any


class _Reader:
    """Reads all cells twice: first which names the code makes itself and of what type, then what is missing."""

    def __init__(self, trees: dict[int, ast.Module], written_for: str, words: set[str]) -> None:
        self.trees = trees
        self.table = _replacements()
        self.is_fastai_1 = written_for == "fastai 1"
        module = classic if written_for == "fastai 0.7" else modern
        self.front = module.__name__
        self.names = {name: getattr(module, name) for name in module.__all__}
        self.own = set(dir(builtins)) | _NOTEBOOK_NAMES | words
        self.stored: set[str] = set()
        self.types: defaultdict[str, list[_Value | None]] = defaultdict(list)
        self.star_of_others = False
        self.cell = 0
        self.imports: list[Finding] = []
        self.missing: list[Finding] = []
        self._typed: set[ast.AST] = set()
        self._said: set[tuple[int, int, str]] = set()

    def read(self) -> None:
        for tree in self.trees.values():
            for node in ast.walk(tree):
                self._note_names(node)
        for tree in self.trees.values():
            for node in ast.walk(tree):
                self._note_types(node)
        for cell, tree in self.trees.items():
            self.cell = cell
            for node in ast.walk(tree):
                self._judge(node)

    # --- which names the code makes ----------------------------------------------------------------------------------

    def _note_names(self, node: ast.AST) -> None:
        if name := _bound_name(node):
            self.own.add(name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            self.stored.add(node.attr)
        elif isinstance(node, ast.Import):
            self.own |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not _is_known(_module(node)):
            self.own |= {alias.asname or alias.name for alias in node.names}
            self.star_of_others |= any(alias.name == "*" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            self.own |= {alias.asname for alias in node.names if alias.asname}
            if line := self.table["imports"].get(_module(node)):
                self._note_names(ast.parse(line).body[0])

    def _note_types(self, node: ast.AST) -> None:
        """Note what a name is bound to; a name with bindings of unknown or several types is left alone."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.types[target.id].append(self._value(node.value))
                    self._typed.add(target)
        elif (name := _bound_name(node)) and node not in self._typed:
            self.types[name].append(None)

    # --- what an expression is ---------------------------------------------------------------------------------------

    def _value(self, node: ast.AST) -> _Value | None:
        if isinstance(node, ast.Name):
            if node.id in self.own:
                known = self.types[node.id] or [None]
                return known[0] if all(each == known[0] for each in known) else None
            return _Value("object", self.names[node.id]) if node.id in self.names else None
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            return None if owner is None else _part(owner, node.attr)
        if isinstance(node, ast.Call):
            called = self._value(node.func)
            return None if called is None else _result(called)
        return None

    # --- what is missing ---------------------------------------------------------------------------------------------

    def _judge(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            self._judge_import(node)
        elif isinstance(node, ast.ImportFrom):
            self._judge_import_from(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            self._judge_name(node, node.id)
        elif isinstance(node, ast.Attribute):
            self._judge_attribute(node)
        elif isinstance(node, ast.Call):
            self._judge_call(node)

    def _judge_import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] in FASTAI_ROOTS:
                self._note_import(
                    node, f"import {self.front}" if "." in alias.name else "leave it out"
                )

    def _judge_import_from(self, node: ast.ImportFrom) -> None:
        module = _module(node)
        if not _is_known(module):
            return
        if reason := _longest(self.table["modules"], module):
            self._miss(node, module, f"{module} is not part of vizsla.", reason)
            return
        names = [alias.name for alias in node.names]
        if module.split(".")[0] != "vizsla":
            usual = f"from {self.front} import {', '.join(names)}"
            self._note_import(node, self.table["imports"].get(module, usual))
            for name in names:
                if name != "*":
                    self._judge_name(node, name)

    def _judge_name(self, node: Any, name: str) -> None:
        if name in self.own or name in self.names:
            return
        instead = self.table["fastai_1"].get(name) if self.is_fastai_1 else None
        instead = instead or self.table["names"].get(name)
        if instead is None and self.star_of_others:
            return  # Perhaps a name of the other library.
        problem = f"{self.front} has no {name}."
        if instead is None:
            near = get_close_matches(name, self.names, n=1, cutoff=0.8)
            instead = f"Is it {near[0]}?" if near else "Import or define it."
            problem = f"{name} is neither defined here nor in {self.front}."
        self._miss(node, name, problem, instead)

    def _judge_attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in FASTAI_ROOTS:
            self._note_import(node, "leave it out")
            return
        owner = self._value(node.value)
        loaded = isinstance(node.ctx, ast.Load)
        if owner is None:
            if (
                self.is_fastai_1
                and loaded
                and (instead := self.table["fastai_1"].get(f".{node.attr}"))
            ):
                self._miss(node, node.attr, f".{node.attr} belongs to fastai 1.", instead)
            return
        cls = owner.thing if inspect.isclass(owner.thing) else type(owner.thing)
        if not _is_ours(cls) or _has(owner, node.attr):
            return
        instead = _longest_class(self.table["attributes"], cls, node.attr)
        if instead is None and (not loaded or node.attr in self.stored):
            return
        near = get_close_matches(node.attr, _attributes(cls), n=1, cutoff=0.75)
        others = f"Is it {near[0]}?" if near else f"help({cls.__name__}) lists what there is."
        self._miss(node, node.attr, f"{cls.__name__} has no {node.attr}.", instead or others)

    def _judge_call(self, node: ast.Call) -> None:
        called = self._value(node.func)
        signature = None if called is None else _signature(called)
        if called is None or signature is None:
            return
        name = ast.unparse(node.func).rpartition(".")[2]
        allowed = _keywords(signature, called.thing)
        for keyword in node.keywords:
            word = keyword.arg
            if word is not None and allowed is not None and word not in allowed:
                table, function = self.table["arguments"], getattr(called.thing, "__name__", "")
                near = get_close_matches(word, allowed, n=1, cutoff=0.7)
                instead = table.get(f"{function}.{word}") or table.get(word)
                others = (
                    f"Is it {near[0]}?"
                    if near
                    else f"It takes {', '.join(sorted(allowed)) or 'none'}."
                )
                self._miss(
                    keyword,
                    f"{name}({word}=)",
                    f"{name} has no argument {word}.",
                    instead or others,
                )
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        most = sum(kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
        is_open = inspect.Parameter.VAR_POSITIONAL in kinds
        is_open |= any(isinstance(each, ast.Starred) for each in node.args)
        if len(node.args) > most and not is_open:
            problem = f"{name} takes {most or 'no'} arguments by place, not {len(node.args)}."
            self._miss(node, f"{name}()", problem, "Name the arguments.")

    def _note_import(self, node: Any, instead: str) -> None:
        code = ast.unparse(node)
        self.imports.append(
            Finding(cell=self.cell, line=node.lineno, code=code, problem="", instead=instead)
        )

    def _miss(self, node: Any, code: str, problem: str, instead: str) -> None:
        """Add a finding, once for each thing in a line."""
        line = node.lineno
        if isinstance(node, ast.Attribute):
            line = node.end_lineno or line  # A chain of calls begins above.
        if (key := (self.cell, line, problem)) not in self._said:
            self._said.add(key)
            self.missing.append(
                Finding(cell=self.cell, line=line, code=code, problem=problem, instead=instead)
            )


def _bound_name(node: ast.AST) -> str | None:
    """Return the name that a node gives to something: a target, a parameter, a function, a class."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    return node.name if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) else None


def _module(node: ast.ImportFrom) -> str:
    """Return the module that is imported from, under fastai's present name."""
    return re.sub(r"^fastai2\b", "fastai", node.module or "")


def _is_known(module: str) -> bool:
    return module.split(".")[0] in FASTAI_ROOTS | {"vizsla"}


def _longest(table: dict[str, str], module: str) -> str | None:
    """Return the entry of a module or of the nearest one above it."""
    while module and module not in table:
        module = module.rpartition(".")[0]
    return table.get(module)


def _longest_class(table: dict[str, str], cls: type, attribute: str) -> str | None:
    entries = (table.get(f"{each.__name__}.{attribute}") for each in cls.__mro__)
    return next((entry for entry in entries if entry), None)


def _is_ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "vizsla"


def _source(cls: type) -> str:
    try:
        return textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # made while running: what it has is in dir()
        return ""


@cache
def _set_on_self(cls: type) -> dict[str, str]:
    """Return the attributes that methods of a class set on ``self``, with the name of what is called to make each."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        for node in ast.walk(ast.parse(_source(each) if _is_ours(each) else "")):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                made = node.value.func if isinstance(node.value, ast.Call) else None
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in (inner for outer in targets for inner in ast.walk(outer)):
                    if not isinstance(target, ast.Attribute) or isinstance(target.ctx, ast.Load):
                        continue
                    if ast.unparse(target.value) == "self":
                        found[target.attr] = made.id if isinstance(made, ast.Name) else ""
    return found


@cache
def _attributes(cls: type) -> frozenset[str]:
    """Return what instances of a class have."""
    declared = (inspect.get_annotations(each) for each in cls.__mro__)
    return frozenset(dir(cls)).union(_set_on_self(cls), *declared)


def _has(owner: _Value, attribute: str) -> bool:
    if owner.kind == "instance":
        answers_all = hasattr(owner.thing, "__getattr__") and not _is_ours(
            owner.thing
        )  # ours name what was meant
        return answers_all or attribute in _attributes(owner.thing)
    return hasattr(owner.thing, attribute)


def _part(owner: _Value, attribute: str) -> _Value | None:
    """Return what an attribute of a known value is."""
    found = inspect.getattr_static(owner.thing, attribute, None)
    if owner.kind == "object":
        return None if found is None else _Value("object", getattr(owner.thing, attribute))
    if owner.kind == "method" or not _is_ours(owner.thing):
        return None
    if isinstance(found, property):
        return _annotated(found.fget, owner.thing)
    if isinstance(found, classmethod | staticmethod):
        return _Value("object", getattr(owner.thing, attribute))
    if inspect.isfunction(found):
        return _Value("method", found)
    made_by = _set_on_self(owner.thing).get(attribute)
    return _instance_of(made_by, owner.thing) if made_by else None


def _result(called: _Value) -> _Value | None:
    if called.kind == "instance" or not _is_ours(called.thing):
        return None
    return (
        _Value("instance", called.thing)
        if inspect.isclass(called.thing)
        else _annotated(called.thing, None)
    )


def _annotated(function: Any, owner: type | None) -> _Value | None:
    """Return an instance of the class that a function is annotated to return."""
    text = str(getattr(function, "__annotations__", {}).get("return", ""))
    if text == "Self" and owner is not None:
        return _Value("instance", owner)
    return _instance_of(text, function)


def _instance_of(name: str, where: Any) -> _Value | None:
    found = _named(name, where)
    return _Value("instance", found) if inspect.isclass(found) and _is_ours(found) else None


def _named(name: str, where: Any) -> Any:
    """Return the thing of a name, from the module of ``where`` or any other part of vizsla."""
    module = sys.modules.get(getattr(where, "__module__", ""))
    if hasattr(module, name):
        return getattr(module, name)
    modules = [each for key, each in list(sys.modules.items()) if key.startswith("vizsla.")]
    return next((vars(each)[name] for each in modules if name in vars(each)), None)


def _signature(called: _Value) -> inspect.Signature | None:
    """Return what a call may give, without ``self``; None where it is not ours or not known."""
    if called.kind == "instance" or not _is_ours(called.thing) or not callable(called.thing):
        return None
    try:
        signature = inspect.signature(called.thing)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    return signature.replace(parameters=parameters[1:]) if called.kind == "method" else signature


def _keywords(signature: inspect.Signature, function: Any) -> set[str] | None:
    """Return the names of arguments, also those of an unpacked ``TypedDict``; None if any name will do."""
    names: set[str] = set()
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            names.add(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            options = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
            fields = None if options is None else _named(options[1], function)
            if fields is None:
                return None
            names |= fields.__required_keys__ | fields.__optional_keys__
    return names
