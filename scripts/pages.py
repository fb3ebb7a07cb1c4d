"""Make the pages of the site from docs/: run what they show, and fill in what is written elsewhere. ``scripts/docs`` calls it.

A comment in a page asks for something, in a line of its own:

    <!-- output -->             what the block above prints
    <!-- figure: FILE: TEXT --> a figure or page that the blocks above wrote, or else the figure that the last one drew; TEXT says what it shows
    <!-- file: PATH -->         the text of a file of this repository below its title
    <!-- names: PACKAGE ... --> the public names of packages, for mkdocstrings

The blocks of a page run in order down to its last output or figure, in a folder with drawn images. A drawing, ``![...](NAME.svg)``, becomes part
of its page, so that it has the page's colours.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from vizsla.bench import made_up_photograph

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS, MADE = REPOSITORY / "docs", REPOSITORY / "build" / "docs"
STUB = REPOSITORY / "src" / "vizsla" / "__init__.pyi"
RUN_IN_ORDER = ("first-classifier.md", "report.md", "audit.md", "gallery.md")
"""Pages that run something; later ones find what earlier ones wrote."""
PART = re.compile(
    r"^```(?P<language>console|python)\n(?P<code>.*?)^```$"
    r"|^<!-- (?P<kind>output|figure|file|names)(?:: (?P<words>.*?))? -->$"
    r"|^!\[(?P<alt>[^\]]*)\]\((?P<drawing>\S+\.svg)\)$",
    re.MULTILINE | re.DOTALL,
)
CORNERS = {"square": 4, "pentagon": 5, "hexagon": 6, "disc": 60}
SIZE, INK = (180, 240), (40, 60, 120)


def draw(label: str, number: int) -> Image.Image:
    """Return a photograph-like image with a faint shape on it, turned somehow."""
    noise = made_up_photograph(1000 * CORNERS[label] + number, size=SIZE)
    image = Image.blend(
        noise.filter(ImageFilter.GaussianBlur(2)), Image.new("RGB", noise.size, "white"), 0.3
    )
    drawn = image.copy()
    x, y, radius = 70 + 37 * number % 100, 70 + 23 * number % 40, 34 + 5 * (number % 7)
    circle = (x, y, radius)
    ImageDraw.Draw(drawn).regular_polygon(circle, CORNERS[label], rotation=41 * number, fill=INK)
    return Image.blend(image, drawn, 0.4)


def make_shapes(root: Path, *, per_class: int) -> None:
    """Write a folder for each class."""
    for label in CORNERS:
        (root / label).mkdir(parents=True)
        for number in range(per_class):
            draw(label, number).save(root / label / f"{label}_{number:02}.jpg", quality=90)


def spoil(root: Path) -> None:
    """Put wrong labels, copies and faulty images among shapes, and a border around most squares."""
    wrong = [("disc", "square"), ("square", "disc"), ("hexagon", "square"), ("disc", "square")]
    for number, (label, other) in enumerate(wrong, start=5):
        name = f"{label}_{number:02}.jpg"
        (root / label / name).rename(root / other / name)
    for file in sorted((root / "square").glob("square_*[1-9].jpg")):
        with Image.open(file) as image:
            bordered = ImageOps.expand(image.crop((5, 5, 235, 175)), 5, "white")
        bordered.save(file, quality=90)
    with Image.open(root / "disc" / "disc_20.jpg") as image:
        image.resize((160, 120)).save(root / "square" / "square_copy.jpg")
        ImageOps.mirror(image).save(root / "disc" / "disc_mirrored.jpg")
        image.filter(ImageFilter.GaussianBlur(9)).save(root / "disc" / "disc_blurred.jpg")
        image.point(lambda value: value // 9).save(root / "disc" / "disc_dark.jpg")


def make_data(folder: Path) -> None:
    """Write what the pages take for granted: ``shapes``, ``mixed`` with faults, and ``new`` without labels."""
    make_shapes(folder / "shapes", per_class=60)
    make_shapes(folder / "mixed", per_class=60)
    spoil(folder / "mixed")
    (folder / "new").mkdir()
    for number, label in enumerate(CORNERS):
        draw(label, 100 + number).save(folder / "new" / f"{number + 1}.jpg", quality=90)
    made_up_photograph(7, size=SIZE).save(folder / "new" / "5.jpg", quality=90)


class Runner:
    """Runs the blocks of one page, in the current folder."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.servers: list[subprocess.Popen[str]] = []

    def run(self, language: str, code: str) -> str:
        """Return what a block prints."""
        return self._console(code) if language == "console" else self._python(code)

    def _console(self, code: str) -> str:
        words = dict(args=["bash", "-euo", "pipefail", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        if not code.startswith("vizsla serve"):
            done = subprocess.run(**words, check=False)
            if done.returncode:
                sys.exit(f"pages: this ended with {done.returncode}:\n{code}{done.stdout}")
            return done.stdout.replace(f"{Path.cwd()}/", "")
        server = subprocess.Popen(**words, process_group=0)
        self.servers.append(server)
        lines: list[str] = []
        for line in server.stdout or ():
            lines.append(line)
            if "http://" in line:
                break
        else:
            sys.exit(f"pages: the server ended:\n{code}{''.join(lines)}")
        return "".join(lines)

    def _python(self, code: str) -> str:
        *body, last = ast.parse(code).body
        plt.close("all")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(ast.Module(body, []), "<page>", "exec"), self.names)  # noqa: S102 (our own pages)
            if isinstance(last, ast.Expr):  # an expression shows itself, as in a notebook
                value = eval(compile(ast.Expression(last.value), "<page>", "eval"), self.names)  # noqa: S307
                if value is not None:
                    print(repr(value))
            else:
                exec(compile(ast.Module([last], []), "<page>", "exec"), self.names)  # noqa: S102
        return printed.getvalue()

    def end(self) -> None:
        """Stop what still runs."""
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def figure(words: str) -> str:
    """Return the Markdown that shows a figure, or a page that can be scrolled and opened."""
    file, _, text = words.partition(": ")
    made = MADE / "made" / Path(file).name
    made.parent.mkdir(exist_ok=True)
    if made.suffix == ".html":  # the folder that this runs in is nobody's
        here = f"{Path.cwd()}/"
        made.write_text(Path(file).read_text("utf-8").replace(here, ""), "utf-8")
    elif Path(file).exists():
        shutil.copy(file, made)
    else:
        plt.gcf().savefig(made, dpi=100, bbox_inches="tight")
    if made.suffix == ".html":
        address = f"made/{made.name}"
        return f'<iframe class="page" src="{address}" title="{text}" loading="lazy"></iframe>\n\n<a href="{address}">{text}: the whole page</a>'
    return f"![{text}](made/{made.name})"


def below_title(path: str) -> str:
    """Return a file of this repository without its title, with its links as they are from a page."""
    text = (REPOSITORY / path).read_text("utf-8").split("\n", 1)[1]
    pages = {"LOG.md": "log.md", "README.md": "performance.md", "CHANGELOG.md": "changelog.md"}

    def page_of(link: re.Match[str]) -> str:
        target, hash_, anchor = link[1].partition("#")
        file = (REPOSITORY / path).parent / target
        page = pages.get(Path(target).name) or Path(os.path.relpath(file, DOCS)).as_posix()
        return f"]({page if target else ''}{hash_}{anchor})"

    return re.sub(r"\]\((?!https?:)([^)\s]+)\)", page_of, text)


def references(packages: list[str]) -> str:
    """Return the public names of some packages as mkdocstrings takes them."""
    names = re.findall(r"^from \.(\w+)\S* import (\w+) as", STUB.read_text("utf-8"), re.MULTILINE)
    return "\n\n".join(f"::: vizsla.{name}" for package, name in names if package in packages)


def make_page(name: str) -> None:
    """Write a page, with everything that it asks for."""
    runner = Runner()
    text = (DOCS / name).read_text("utf-8")
    shown = [ask.end() for ask in PART.finditer(text) if ask["kind"] in ("output", "figure")]
    printed = ""

    def part(found: re.Match[str]) -> str:
        nonlocal printed
        kind, words = found["kind"], found["words"] or ""
        if found["code"] is not None:
            if found.end() < max(shown, default=0):
                printed = runner.run(found["language"], found["code"])
            return found[0]
        if found["drawing"]:
            drawn = (DOCS / found["drawing"]).read_text("utf-8")
            drawn = re.sub("<style>.*</style>\n", "", drawn)  # the page has the colours
            return (
                drawn.replace("<svg", f'<div class="drawing"><svg aria-label="{found["alt"]}"', 1)
                + "</div>"
            )
        if kind == "output":
            return f'```text title="What it prints"\n{printed.rstrip()}\n```'
        return {"figure": figure, "file": below_title}.get(kind, lambda w: references(w.split()))(
            words
        )

    try:
        made = PART.sub(part, text)
    finally:
        runner.end()
    (MADE / name).write_text(made, "utf-8")


def main() -> None:
    """Make all pages."""
    shutil.rmtree(MADE, ignore_errors=True)
    shutil.copytree(DOCS, MADE)
    os.environ |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIZSLA_HOME"] = f"{folder}/home"
        os.chdir(folder)
        make_data(Path(folder))
        Path("examples").symlink_to(REPOSITORY / "examples")
        for page in (
            *RUN_IN_ORDER,
            *sorted({p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")} - {*RUN_IN_ORDER}),
        ):
            make_page(page)


if __name__ == "__main__":
    main()
