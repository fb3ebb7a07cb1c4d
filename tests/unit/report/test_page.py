"""The report page as text: complete, escaped, closed to the outside, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from vizsla import ConfigError, MissingExtraError, OutputError
from vizsla.data.images import find_duplicates, image_facts
from vizsla.evaluate import summarise
from vizsla.infer import Evidence, Neighbour
from vizsla.report import ReportContent, build, render_report, write_report
from vizsla.types import UNLABELLED

Maker = Callable[..., ReportContent]

ADDRESS_ATTRIBUTES = {"src", "href", "srcset", "poster", "data", "action", "formaction", "xlink:href"}  # fmt: skip
BLOCKS = {"td", "th", "dt", "dd", "p", "text", "li", "h1", "h2", "summary"}
EMPTY_ELEMENTS = {"meta", "link", "img", "wbr"}


class Page(HTMLParser):
    """The elements, addresses and text of a page; checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.style = ""
        self.script = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        self.addresses += [value for name, value in values.items() if name in ADDRESS_ATTRIBUTES]
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in BLOCKS:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        elif self.open and self.open[-1] == "script":
            self.script += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        """The words of the page, one space between them, narrow ones included."""
        return " ".join("".join(self.words).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            name == tag and all(values.get(key) == value for key, value in attributes.items())
            for name, values in self.elements
        )


def page_of(content: ReportContent) -> Page:
    return Page(render_report(content))


def test_the_page_shows_what_was_asked_for(content: ReportContent):
    written = render_report(replace(content, notes=("Remember this.",)))
    assert "cross/<wbr>cross_<wbr>4.jpg" in written  # names may break at their separators
    page = Page(written)
    for words in (
        "Crosses and discs",
        "85.0 %",
        "17 of 20",
        "Network tiny",
        "An older network",
        "50.0 %",
        "below this run's interval",
        "Balanced accuracy",
        "Calibration error",
        "Remember this.",
        "Always answering cross",
        "would reach 50.0 %",
        "All 3 mistakes",
        "features",
    ):
        assert words in page.text
    # mistakes, least certain, suspected labels, confusions
    assert page.count("img") == 3 + 12 + 3 + 3
    assert page.count("figure", **{"class": "panel"}) == 2
    links = [address for address in page.addresses if address.startswith("#confused-")]
    assert sorted(set(links)) == ["#confused-0-1", "#confused-1-0"]
    assert page.count("div", id="confused-0-1") == 1


def test_a_lone_accuracy_is_compared_with_the_most_frequent_class(content: ReportContent):
    scale = render_report(replace(content, references=())).split('<div class="scale"')[1]
    assert "Always answering cross 50.0\u202f%" in scale.split(">")[0]


def test_commands_are_shown_and_suspected_labels_name_the_one_that_corrects_them(content: ReportContent):  # fmt: skip
    commands = (("Predict", "vizsla predict 'my run' photos"), ("Correct", "vizsla label 'my run'"))
    page = render_report(replace(content, commands=commands))
    assert page.count("<code>vizsla label &#39;my run&#39;</code>") == 2
    assert page.count("<code>vizsla predict &#39;my run&#39; photos</code>") == 1


def test_no_address_leads_out_of_the_page(content: ReportContent):
    page = page_of(content)
    assert page.addresses
    targets = {values["id"] for _, values in page.elements if "id" in values}
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in targets
        else:
            assert address.startswith(("data:image/jpeg;base64,", "data:,"))
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert not any("style" in values for _, values in page.elements)


def test_the_policy_allows_only_what_is_in_the_page(content: ReportContent):
    page = page_of(content)
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (page.style, page.script)
    )
    policies = [
        values["content"]
        for tag, values in page.elements
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    ]
    assert page.count("script") == 1
    # The policy counts only for what follows it.
    names = [tag for tag, _ in page.elements]
    assert names.index("meta") < names.index("style")
    assert names.index("meta") < names.index("link")


def test_hostile_names_are_shown_and_do_nothing(make_content: Maker, tmp_path: Path):
    hostile = '<script>alert("1")<\\script> {{ 7*7 }} &amp; \' \u202egpj.jpg'
    path = tmp_path / hostile
    Image.new("RGB", (20, 20), "red").save(path)
    page = page_of(
        make_content(
            torch.tensor([[0.0, 1.0, 0.0]]),
            [0],
            vocab=(f"{hostile}a", "</style><img src=x onerror=alert(1)>", '"><b>'),
            paths=(path,),
            title=hostile,
            facts=((hostile, hostile),),
            notes=(hostile,),
            references=((hostile, 0.5),),
            skipped=((tmp_path / hostile, hostile),),
        )
    )
    shown = hostile.replace("\u202e", "\\u202e")
    assert page.count("script") == 1
    assert page.count("b") == 0
    assert page.count("img") == 3
    assert not any(name.startswith("on") for _, values in page.elements for name in values)
    assert page.text.count(shown) >= 8
    assert "\u202e" not in page.text


def test_a_page_of_an_unusual_run_says_so(make_content: Maker):
    for name, content, num_images, words in (
        (
            "no mistakes",
            make_content(torch.eye(2).repeat(5, 1) * 4, [0, 1] * 5),
            10,
            (
                "None: all 10 validation images were classified correctly.",
                "72.2\u2013100.0 %, so mistakes on other images are to be expected",
            ),
        ),
        (
            "a single image",
            make_content([[3.0, 0.0]], [0]),
            1,
            (
                "None: the only validation image was classified correctly.",
                "20.7\u2013100.0 %",
                "not known",
            ),
        ),
        (
            "no labels",
            make_content([[0.0, 1.0]] * 3, [UNLABELLED] * 3),
            3,
            ("No validation image has a label", "not known"),
        ),
    ):
        page = page_of(content)
        assert page.count("img") == num_images, name
        assert [text for text in words if text not in page.text] == [], name
    empty = page_of(make_content(torch.zeros(0, 2), [], history=(), facts=()))
    assert empty.count("section") == 1


def test_forty_classes_have_a_matrix_and_more_have_pairs(make_content: Maker):
    def page(num_classes: int) -> Page:
        targets = list(range(num_classes)) * 2
        logits = torch.eye(num_classes)[targets] * 3
        logits[0] = logits[1]
        vocab = [f"class {index}" for index in range(num_classes)]
        return page_of(make_content(logits, targets, vocab=vocab))

    matrix = page(40)
    assert matrix.count("table", **{"class": "matrix dense"}) == 1
    assert matrix.count("td", **{"class": "right-8"}) == 39
    pairs = page(41)
    assert pairs.count("table", **{"class": "numbers pairs"}) == 1
    assert not any("matrix" in values.get("class", "") for _, values in pairs.elements)
    assert "class 0 class 1 1 50.0 %" in pairs.text


def test_the_matrix_is_shaded_by_share_of_the_label(make_content: Maker):
    logits = torch.eye(2)[[0, 0, 0, 1, 1]] * 3.0
    table = render_report(make_content(logits, [0, 0, 0, 0, 1])).split('class="matrix')[1]
    cells = re.findall(r"<td(.*?)>(.*?)</td>", table.split("</table>")[0])
    assert cells == [
        (' class="right-6" title="cross \u2192 cross"', "3"),
        (' class="wrong-4" title="cross \u2192 disc"', '<a href="#confused-0-1">1</a>'),
        ("", "0"),
        (' class="right-8" title="disc \u2192 disc"', "1"),
    ]


def test_the_hardest_class_comes_first_and_absent_ones_last(make_content: Maker):
    logits = torch.eye(4)[[0, 0, 1, 2, 2]] * 3.0
    written = render_report(make_content(logits, [0, 1, 1, 2, 2], vocab="abcd"))
    table = written.split('id="classes"')[1].split("</section>")[0]
    assert re.findall(r'<tr><th scope="row">(\w)</th>', table) == ["b", "a", "c", "d"]
    absent = table.split('<th scope="row">d</th>')[1]
    assert absent.count("\u2013") == 3  # recall, precision and F1 of nothing
    assert absent.count('data-key="-1"') == 3


def test_epochs_are_a_table_where_a_missing_figure_is_a_dash(content: ReportContent):
    table = render_report(content).split('<table class="numbers history">')[1].split("</table>")[0]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert (rows[0][2], rows[0][4]) == ("\u2013", "80.0\u202f%")
    assert (rows[-1][2], rows[-1][5].replace("\u202f", " ")) == ("0.4000", "1 min 35 s")
    single = page_of(replace(content, history=content.history[:1]))
    assert single.count("figure") == 0
    assert "features 0 \u2013 0.7000" in single.text


def test_an_image_that_is_gone_has_a_placeholder(content: ReportContent):
    content.table.paths[8].unlink()
    page = page_of(content)
    assert "cannot be read any more" in page.text
    assert page.count("img") < 20


def test_files_that_were_left_out_are_listed_with_cause(make_content: Maker, tmp_path: Path):
    skipped = tuple((tmp_path / f"{number}.jpg", "the file is empty") for number in range(120))
    page = page_of(make_content([[1.0, 0.0]], [0], skipped=skipped))
    assert "120 files could not be read and were not used; the first 100 are listed." in page.text
    assert page.text.count("the file is empty") == 100


def test_the_file_is_the_page(make_content: Maker, tmp_path: Path):
    content = make_content([[0.0, 1.0]], [0], facts=(("Data", "bad\udcff"),))
    path = write_report(tmp_path / "report.html", content=content)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render_report(content)
    assert "bad\\udcff" in path.read_text(encoding="utf-8")  # not Unicode
    assert [file.name for file in tmp_path.glob("*.html*")] == ["report.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(content: ReportContent, tmp_path: Path):
    path = tmp_path / "report.html"
    path.mkdir()
    (path / "old").touch()
    for target in (path, tmp_path / "missing" / "report.html"):
        with pytest.raises(OutputError, match=re.escape(str(target))):
            write_report(target, content=content)
    assert (path / "old").exists()


def test_references_and_rows_that_do_not_fit_are_refused(content: ReportContent):
    few = replace(content.table, paths=content.table.paths[:5])
    with pytest.raises(ConfigError, match=r"'CNN'.*88\.42"):
        replace(content, references=(("CNN", 88.42),))
    with pytest.raises(ConfigError, match=r"0\.\.4.*0\.\.19"):
        replace(content, table=few)


def test_a_missing_jinja_is_named(
    content: ReportContent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="pip install jinja2"):
        write_report(tmp_path / "report.html", content=content)
    assert not (tmp_path / "report.html").exists()


def test_several_labels_and_numbers_have_sections_of_their_own(content: ReportContent):
    draws = torch.Generator().manual_seed(0)
    for task, targets, words, num_class_tables, absent in (
        (
            "multi_category",
            (torch.rand(20, 2, generator=draws) < 0.5).float(),
            ("Exact match on the validation images.", "Mean average precision", "cross"),
            1,
            ("confusions", "calibration", "labels"),
        ),
        (
            "regression",
            torch.randn(20, 2, generator=draws),
            ("Mean absolute error on the validation images", "Largest errors"),
            0,
            ("classes", "confusions", "uncertain", "slices"),
        ),
    ):
        logits = torch.randn(20, 2, generator=draws)
        predictions = replace(content.predictions, logits=logits, targets=targets, task=task)
        page = page_of(
            replace(content, predictions=predictions, metrics=summarise(predictions), references=())
        )
        assert [text for text in words if text not in page.text] == []
        assert page.count("table", **{"class": "numbers classes sortable"}) == num_class_tables
        assert sum(page.count("section", id=name) for name in absent) == 0


def test_a_report_on_2000_images_is_below_5_megabytes(make_content: Maker, tmp_path: Path):
    draws = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, 300, 300, 3), generator=draws, dtype=torch.uint8)
    paths = [tmp_path / f"{'long_name_' * 8}{number}.jpg" for number in range(6)]
    for path, pixels in zip(paths, noise, strict=True):
        Image.fromarray(pixels.numpy()).save(path)
    vocab = [f"Quite_A_Long_Name_Of_A_Breed_{number}" for number in range(37)]
    targets = torch.arange(2000) % 37
    logits = torch.randn(2000, 37, generator=draws) + 2.5 * torch.eye(37)[targets]
    near = tuple(Neighbour(row=row, similarity=0.5) for row in (1, 2, 3))
    pixels = noise[0].permute(2, 0, 1)
    evidence = Evidence(
        heat=dict.fromkeys(range(2000), pixels), neighbours=dict.fromkeys(range(2000), near)
    )
    content = make_content(logits, targets.tolist(), vocab=vocab, paths=paths)
    written = render_report(replace(content, evidence=evidence))
    page = Page(written)
    assert 3_500_000 < len(written.encode()) < 5_000_000
    assert page.count("section", id="mistakes") == 1


def test_a_full_page_drops_confusions_first(
    content: ReportContent, monkeypatch: pytest.MonkeyPatch
):
    taken = sum(map(len, re.findall(r'<img src="([^"]*)"', render_report(content))))
    monkeypatch.setattr(build, "BUDGET_BYTES", taken - 4000)
    written = render_report(content)
    assert "left out, the page is full" in written.split('class="groups"')[1].split("</details>")[0]
    shown = written.split('id="mistakes"')[1].split("</section>")[0]
    assert shown.count("<img") == 3


def test_the_first_metric_is_told_without_images_that_training_has_too(make_content: Maker):
    targets = [number % 2 for number in range(10)]
    logits = torch.nn.functional.one_hot(torch.tensor(targets), 2) * 3.0
    logits[[5, 6]] = logits[[5, 6]].flip(1)
    content = make_content(logits, targets)
    table = replace(
        content.table,
        paths=(*content.table.paths[:10], content.table.paths[0], content.table.paths[1]),
        targets=torch.tensor([*targets, 0, 1]),
        train_rows=torch.tensor([10, 11]),
    )
    valid, train = (
        image_facts(table, rows, num_workers=0) for rows in (table.valid_rows, table.train_rows)
    )
    evidence = Evidence(
        valid_facts=valid, train_facts=train, duplicates=find_duplicates(valid, train)
    )
    text = Page(render_report(replace(content, table=table, evidence=evidence))).text
    assert "Accuracy without them: 75.0 % (40.9\u201392.9 %) on 8 validation images" in text
    assert "with them: 80.0 % (49.0\u201394.3 %)" in text
    assert "without them" not in Page(render_report(content)).text
