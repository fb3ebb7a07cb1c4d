"""The pages keep their word: links lead somewhere, every error has its entry, the changelog knows the version."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import vizsla
from vizsla import errors
from vizsla.model_file import FORMAT_VERSION, Manifest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as site builders and code hosts form them."""
    headings = [re.sub(r"[^\w\s-]", "", text.lower()) for text in HEADING.findall(prose(page))]
    return {re.sub(r"\s", "-", text.strip()) for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    dead: list[str] = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert dead == []


def test_the_navigation_lists_every_page():
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"^ +- .*: (\S+\.md)$", navigation, flags=re.MULTILINE)
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )


def test_every_error_has_an_entry():
    classes = [
        name
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and issubclass(thing, Exception) and name[0] != "_"
    ]
    entries = re.findall(
        r"^#+ (\w+Error)$", (DOCS / "errors.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert sorted(entries) == sorted(classes)


@pytest.mark.parametrize("name", [name for name in vizsla.__all__ if name.endswith("Error")])
def test_an_error_entry_gives_cause_and_cure(name: str):
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    entry = re.split(rf"^#+ {name}$", text, flags=re.MULTILINE)[1].split("\n#")[0]
    assert "**Cause.**" in entry
    assert "**Cure.**" in entry


def test_the_model_file_page_has_every_field_of_the_manifest():
    text = (DOCS / "model-file.md").read_text(encoding="utf-8").split("## The manifest")[1]
    table = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    written = [field.name for field in dataclasses.fields(Manifest)]
    assert table == ["format", "format_version", *written]
    assert f"Format version {FORMAT_VERSION}:" in text


def test_the_changelog_has_this_version():
    headings = HEADING.findall((REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"))
    versions = [heading for heading in headings if heading.startswith("[")]
    assert versions[0].startswith(f"[{vizsla.__version__}]")
    assert "Results that changed" in headings
