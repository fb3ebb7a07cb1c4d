"""Make the pictures of docs/audit.md: draw images with planted faults, audit them, and photograph the page.

.venv/bin/python scripts/audit_pictures.py [BROWSER]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from vizsla import TrainConfig, audit
from vizsla.bench import made_up_photograph

DOCS = Path(__file__).resolve().parents[1] / "docs"
PER_CLASS, SIZE, INK = 60, (180, 240), (40, 60, 120)
PICTURES = {"audit.png": ("", 640), "audit-labels.png": ("label", 950)}


def draw(label: str, number: int) -> Image.Image:
    """Return a photograph-like image with the outline of a shape on it."""
    noise = made_up_photograph(1000 * len(label) + number, size=SIZE)
    image = Image.blend(
        noise.filter(ImageFilter.GaussianBlur(2)), Image.new("RGB", noise.size, "white"), 0.3
    )
    pen = ImageDraw.Draw(image)
    x, y, radius = 60 + 37 * number % 120, 60 + 23 * number % 60, 28 + 5 * (number % 5)
    box = (x - radius, y - radius, x + radius, y + radius)
    if label == "disc":
        pen.ellipse(box, fill=INK)
    elif label == "cross":
        pen.line(box, fill=INK, width=14)
        pen.line((box[0], box[3], box[2], box[1]), fill=INK, width=14)
    else:
        pen.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], fill=INK)
    return image


def make_data(root: Path) -> None:
    """Write three classes with wrong labels, copies, faulty images, and a border on most crosses."""
    for label in ("cross", "disc", "triangle"):
        (root / label).mkdir(parents=True)
        for number in range(PER_CLASS):
            image = draw(label, number)
            if label == "cross" and number % 10:
                image = ImageOps.expand(image.crop((5, 5, 235, 175)), 5, "white")
            image.save(root / label / f"{label}_{number:02}.jpg", quality=90)
    for number, (label, other) in enumerate([("disc", "triangle"), ("triangle", "cross"), ("disc", "cross")]):  # fmt: skip
        name = f"{label}_{number + 5:02}.jpg"
        (root / label / name).rename(root / other / name)
    with Image.open(root / "disc" / "disc_20.jpg") as image:
        image.resize((160, 120)).save(root / "triangle" / "triangle_copy.jpg")
        ImageOps.mirror(image).save(root / "disc" / "disc_mirrored.jpg")
        image.filter(ImageFilter.GaussianBlur(9)).save(root / "disc" / "disc_blurred.jpg")
        image.point(lambda value: value // 9).save(root / "disc" / "disc_dark.jpg")


def main() -> None:
    """Audit what is drawn and write the pictures."""
    browser = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shapes"
        make_data(root)
        found = audit(root, config=TrainConfig(size=128, device="cpu"))
        print(found)
        whole = found.save(Path(folder) / "shapes-audit").read_text("utf-8")
        top, *sections = re.split(r'(?=<section id="finding-)', whole)
        for name, (kind, height) in PICTURES.items():
            shown = [each for each in sections if kind and f": {kind}</p>" in each]
            head = re.sub(r'<section class="result".*', "", top, flags=re.DOTALL) if kind else top
            page, drawn = Path(folder) / f"{name}.html", Path(folder) / name
            page.write_text(head + "".join(shown), encoding="utf-8")
            words = [browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size=1120,{height}"]  # fmt: skip
            subprocess.run([*words, f"--screenshot={drawn}", page.as_uri()], check=True, capture_output=True)  # fmt: skip
            with Image.open(drawn) as image:
                image.convert("RGB").quantize(128).save(DOCS / name, optimize=True)


if __name__ == "__main__":
    main()
