"""How many planted faults of a data set are found, next to tools made for it.

python -m benchmarks.audit --help
"""

from __future__ import annotations

import sys
import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from benchmarks.measure import Command, answer, head, row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    Pairs = set[frozenset[str]]
    Chance = Callable[[], float]  # the next random number from 0 to 1

CELLS = "cells"
PLANTED = 0.03
CROPPED = 0.05


def near_duplicates(options: argparse.Namespace) -> int:
    """Plant 3 % near duplicates in folders of images, one of each kind in turn, and count which are found.

    No copy is made of images of which vizsla finds another in the folder itself, and pairs of two originals are counted apart.
    "cells" stands for the solar cells of the package elpv-dataset. To compare: pip install imagededup cleanvision
    """
    tools: dict[str, Callable[[list[Path]], Pairs]] = {"vizsla": by_vizsla}
    for name, tool in {"imagededup": by_imagededup, "cleanvision": by_cleanvision}.items():
        try:
            __import__(name)
        except ImportError:
            print(f"{name} is not installed, so it is left out")
        else:
            tools[name] = tool
    for data in options.data:
        originals = images_of(data)[: 200 if options.quick else None]
        twice = {path for pair in by_vizsla(originals) for path in pair}
        alone = sorted({str(path) for path in originals} - twice)
        folder = options.made_in / Path(data).name
        folder.mkdir()
        planted = plant(alone, folder, max(len(KINDS), round(PLANTED * len(originals))))
        print(f"\n{data}: {len(originals)} images, {len(planted)} planted\n")
        print(head("", "precision", "recall", *KINDS, "pairs of originals", "s"))
        for name, tool in tools.items():
            began = time.perf_counter()
            found = tool([*originals, *map(Path, planted)])
            seconds = time.perf_counter() - began
            of_planted = {pair for pair in found if pair & planted.keys()}
            right = {frozenset((copy, source)) for copy, (source, _) in planted.items()}
            hits = {kind: [0, 0] for kind in KINDS}
            for copy, (source, kind) in planted.items():
                hits[kind][0] += frozenset((copy, source)) in found
                hits[kind][1] += 1
            cells = [f"{hit}/{number}" for hit, number in hits.values()]
            precision = len(right & found) / max(1, len(of_planted))
            recall = len(right & found) / len(right)
            shown = (f"{precision:.3f}", f"{recall:.3f}", *cells)
            print(row(name, *shown, str(len(found - of_planted)), f"{seconds:.0f}"), flush=True)
    return 0


# --- What is planted -------------------------------------------------------------------------------------------------


def cropped(image: Image.Image, chance: Chance) -> Image.Image:
    """Return an image without 5 % of its height and width, taken from its ends at random."""
    width, height = image.size
    less = round(width * CROPPED), round(height * CROPPED)
    left, top = round(less[0] * chance()), round(less[1] * chance())
    return image.crop((left, top, left + width - less[0], top + height - less[1]))


def resized(image: Image.Image, chance: Chance) -> Image.Image:
    """Return an image at 0.4 to 1.5 times its size."""
    factor = 0.4 + 1.1 * chance()
    return image.resize((round(image.width * factor), round(image.height * factor)))


def brighter(image: Image.Image, chance: Chance) -> Image.Image:
    """Return an image that is a tenth brighter or darker."""
    factor = 0.9 if chance() < 0.5 else 1.1
    return ImageEnhance.Brightness(image).enhance(factor)


def mirrored(image: Image.Image, _chance: Chance) -> Image.Image:
    """Return an image mirrored left to right."""
    return ImageOps.mirror(image)


KINDS: dict[str, Sequence[Callable[[Image.Image, Chance], Image.Image]]] = {
    "saved again": (),
    "cropped": (cropped,),
    "resized": (resized,),
    "mirrored": (mirrored,),
    "brightness": (brighter,),
    "all of these": (mirrored, cropped, brighter, resized),
}


def plant(sources: list[str], folder: Path, number: int) -> dict[str, tuple[str, str]]:
    """Write changed copies of some files as JPEGs of quality 30 to 90, and return their sources and kinds by path."""
    import torch

    from vizsla.seeding import generator

    draws = generator(0, "near duplicates")
    order = torch.randperm(len(sources), generator=draws).tolist()

    def chance() -> float:
        return float(torch.rand((), generator=draws))

    planted: dict[str, tuple[str, str]] = {}
    for position, source in enumerate(sources[place] for place in order[:number]):
        kind = list(KINDS)[position % len(KINDS)]
        with Image.open(source) as file:
            image = file.convert("RGB")
        for change in KINDS[kind]:
            image = change(image, chance)
        path = folder / f"planted_{position}.jpg"
        image.save(path, quality=30 + round(60 * chance()))
        planted[str(path)] = source, kind
    return planted


# --- Who looks for them ----------------------------------------------------------------------------------------------


def images_of(data: str) -> list[Path]:
    """Return the images of a folder, or the solar cells."""
    if data == CELLS:
        from vizsla.data import solar_cells

        return sorted(solar_cells(seed=0).paths)
    return sorted(
        path for path in Path(data).resolve().rglob("*.*") if path.suffix in (".jpg", ".png")
    )


def by_vizsla(paths: list[Path]) -> Pairs:
    """Return the pairs within the groups that vizsla finds from grey values alone."""
    import torch

    from vizsla.data.images import find_near_duplicates
    from vizsla.types import ImageTable

    rows = torch.arange(len(paths))
    table = ImageTable(
        root=Path("/"), paths=paths, targets=torch.zeros_like(rows), vocab=("all",), train_rows=rows, valid_rows=rows[:0]
    )  # fmt: skip
    return {
        frozenset((str(paths[one]), str(paths[other])))
        for group in find_near_duplicates(table, rows)
        for one, other in combinations(group.rows, 2)
    }


def by_imagededup(paths: list[Path]) -> Pairs:
    """Return the pairs that imagededup's PHash finds with its default distance of 10 bits."""
    from imagededup.methods import PHash  # pyright: ignore[reportMissingImports]

    hasher = PHash(verbose=False)
    hashes = {str(path): hasher.encode_image(image_file=path) for path in paths}
    found = hasher.find_duplicates(
        encoding_map={path: bits for path, bits in hashes.items() if bits}
    )
    return {frozenset((path, other)) for path, others in found.items() for other in others}


def by_cleanvision(paths: list[Path]) -> Pairs:
    """Return the pairs within the groups that cleanvision finds with its defaults."""
    import contextlib
    import io

    from cleanvision import Imagelab  # pyright: ignore[reportMissingImports]

    with contextlib.redirect_stdout(io.StringIO()):
        lab = Imagelab(filepaths=[str(path) for path in paths])
        lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1)
    return {
        frozenset(pair)
        for kind in ("exact_duplicates", "near_duplicates")
        for group in lab.info[kind].get("sets", [])
        for pair in combinations(group, 2)
    }


# --- Wrong labels ----------------------------------------------------------------------------------------------------


def wrong_labels(options: argparse.Namespace) -> int:
    """Change labels at random, or to the class that is confused with theirs most, and count which are suspected.

    cleanlab gets the same leave-one-out probabilities. To compare: pip install cleanlab
    """
    from dataclasses import replace

    import torch

    from vizsla import TrainConfig, audit
    from vizsla.data.table import resolve_data
    from vizsla.evaluate import confusion_matrix, label_noise
    from vizsla.train import Display

    try:
        from cleanlab.filter import find_label_issues  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("cleanlab is not installed, so it is left out")
        find_label_issues = None
    config, quiet = TrainConfig(device="cpu"), Display(quiet=True)
    for data in options.data:
        table = resolve_data(data, labels=options.labels, seed=0)
        alike = None
        print(f"\n{data}\n")
        print(head("", "changed", "estimate", "suspected", "precision", "recall", "cleanlab", "precision", "recall", "found in as many", "in twice as many"))  # fmt: skip
        for how, rate in (("none", 0.0), ("random", 0.05), ("random", 0.1), ("look-alike", 0.05), ("look-alike", 0.1)):  # fmt: skip
            random = torch.Generator().manual_seed(0)
            targets, num_classes = table.targets.clone(), len(table.vocab)
            changed = torch.randperm(len(targets), generator=random)[: round(rate * len(targets))]
            shift = torch.randint(1, num_classes, (len(changed),), generator=random)
            other = (targets[changed] + shift) % num_classes
            targets[changed] = (
                other if alike is None or how == "random" else alike[targets[changed]]
            )
            left_out = audit(replace(table, targets=targets), config=config, display=quiet).left_out
            if left_out is None or (found := label_noise(left_out)) is None:
                raise SystemExit(f"{data} does not have one of several classes for each image")
            if alike is None:
                counts = confusion_matrix(left_out) + confusion_matrix(left_out).T
                alike = counts.fill_diagonal_(-1).argmax(1)
            wrong = {int(place) for place in range(len(left_out.rows)) if int(left_out.rows[place]) in set(changed.tolist())}  # fmt: skip
            ours = {each.position for each in found.suspects}
            theirs: set[int] = set()
            if find_label_issues is not None:
                probabilities = left_out.probabilities.numpy()
                theirs = set(find_label_issues(left_out.targets.numpy(), probabilities).nonzero()[0].tolist())  # fmt: skip
            cells = [f"{found.rate:.1%} ({found.low:.1%}-{found.high:.1%})"]
            for said in (ours, theirs):
                hits = len(said & wrong)
                cells += [str(len(said)), f"{hits / max(1, len(said)):.2f}", f"{hits / max(1, len(wrong)):.2f}"]  # fmt: skip
            # Whoever looks at the first images that the page shows, as many as labels are wrong, and twice as many.
            first = [each.position for each in (*found.suspects, *found.confused)]
            for times in (1, 2):
                hits = len(wrong & set(first[: times * len(wrong)]))
                cells.append(f"{hits / max(1, len(wrong)):.2f}")
            print(row(how, f"{rate:.0%}", *cells), flush=True)
    return 0


# --- Shortcuts -------------------------------------------------------------------------------------------------------


def with_border(image: Image.Image) -> Image.Image:
    """Return an image with a white border of a sixtieth of its width, of the same size."""
    width, height = image.size
    edge = max(3, width // 60)
    inner = image.crop((edge, edge, width - edge, height - edge))
    return ImageOps.expand(inner, edge, "white")


def with_logo(image: Image.Image) -> Image.Image:
    """Return an image with a half-transparent disc in a corner, a fourteenth of its height."""
    width, height = image.size
    side = max(16, height // 14)
    left, top = width - side - 8, height - side - 8
    draw = ImageDraw.Draw(image, "RGBA")
    draw.ellipse((left, top, left + side, top + side), fill=(255, 255, 255, 140))
    draw.rectangle((left + side // 3, top + side // 4, left + 2 * side // 3, top + 3 * side // 4), fill=(0, 0, 0, 140))  # fmt: skip
    return image


def with_date(image: Image.Image) -> Image.Image:
    """Return an image with a date printed in a corner, as old cameras do."""
    day = f"{1 + image.width % 28:02}.{1 + image.height % 12:02}.2014"
    ImageDraw.Draw(image).text((image.width - 90, image.height - 20), day, fill=(255, 160, 0))
    return image


SHORTCUTS: dict[str, tuple[str, Callable[[Image.Image], Image.Image] | None, str]] = {
    "nothing": ("", None, "{}.jpg"),
    "a border": ("the border", with_border, "{}.jpg"),
    "a logo": ("marks near the edges", with_logo, "{}.jpg"),
    "a printed date": ("marks near the edges", with_date, "{}.jpg"),
    "a date in the path": ("the date", None, "2024-05-31/{}.jpg"),
    "a camera": ("the camera", None, "{}.jpg"),
    "JPEG quality 60": ("the JPEG quality", None, "{}.jpg"),
    "PNG": ("the file type", None, "{}.png"),
    "a tenth darker": ("brightness and colour", lambda image: ImageEnhance.Brightness(image).enhance(0.9), "{}.jpg"),
    "half the size": ("the size of the image", lambda image: image.resize((image.width // 2, image.height // 2)), "{}.jpg"),
}  # fmt: skip
"""What is planted: the cue of an audit that it is, what changes the image, and the file's name."""


def shortcuts(options: argparse.Namespace) -> int:
    """Give 95 % of one class, and 5 % of the others, something that is not the object, and look whether it is named.

    cleanlab's Datalab tells a class from what cleanvision measures, one number at a time. To compare: pip install cleanlab cleanvision
    """
    import torch

    from vizsla.auditing import probe_cues, read_traits, shortcut_findings
    from vizsla.data.table import resolve_data
    from vizsla.types import ImageTable

    for data in options.data:
        whole = resolve_data(data, labels=options.labels, seed=0)
        every = torch.cat([whole.train_rows, whole.valid_rows]).sort().values
        targets = whole.targets[every[:: 8 if options.quick else 1]]
        rows = every[:: 8 if options.quick else 1].tolist()
        has = (targets == 0) == (torch.rand(len(rows), generator=torch.Generator().manual_seed(0)) < 0.95)  # fmt: skip
        print(f"\n{data}: {len(rows)} images, planted on {whole.vocab[0]}\n")
        print(head("", "named", "explained", "named beside it", "cleanlab"))
        for name, (cue, change, file_name) in SHORTCUTS.items():
            root, paths = options.made_in / Path(data).name / name, []
            for place, (row_of, planted) in enumerate(zip(rows, has.tolist(), strict=True)):
                with Image.open(whole.paths[row_of]) as file:
                    image = file.convert("RGB")
                image = change(image) if planted and change is not None else image
                exif = Image.Exif()
                exif[271] = "Maker" if planted and cue == "the camera" else "Other"
                path = root / (file_name if planted else "{}.jpg").format(place)
                path.parent.mkdir(parents=True, exist_ok=True)
                quality = 60 if planted and cue == "the JPEG quality" else 90
                image.save(path, quality=quality, exif=exif)
                paths.append(path)
            numbers = torch.arange(len(paths))
            table = ImageTable(
                root=root, paths=paths, targets=targets, vocab=whole.vocab, train_rows=numbers, valid_rows=numbers[:0]
            )  # fmt: skip
            traits = [one for one in read_traits(table, numbers) if one is not None]
            cues = probe_cues(traits, targets, vocab=whole.vocab, seed=0)
            said = {each.name for each in cues if list(shortcut_findings([each]))}
            explained = next((f"{each.explained:.2f}" for each in cues if each.name == cue), "")
            cells = ["yes" if cue in said else "no" if cue else "", explained, ", ".join(sorted(said - {cue}))]  # fmt: skip
            print(row(name, *cells, _by_cleanlab(paths, targets.tolist())), flush=True)
    return 0


def _by_cleanlab(paths: list[Path], targets: list[int]) -> str:
    """Return the properties that cleanlab's Datalab would report with its default threshold."""
    import contextlib
    import io

    try:
        from cleanlab.datalab.internal.spurious_correlation import SpuriousCorrelations  # pyright: ignore[reportMissingImports]
        from cleanvision import Imagelab  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "not installed"
    kinds = ("dark", "light", "low_information", "odd_aspect_ratio", "odd_size", "grayscale", "blurry")  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lab = Imagelab(filepaths=[str(path) for path in paths])
        lab.find_issues({kind: {} for kind in kinds}, n_jobs=1)
    scores = lab.issues.loc[[str(path) for path in paths]].filter(like="_score")
    found = SpuriousCorrelations(data=scores, labels=targets).calculate_correlations()
    return ", ".join(found[found["score"] < 0.3]["property"]) or "nothing"


COMMANDS = {
    "labels": Command(
        asks="How many wrong labels are found, next to cleanlab?",
        run=wrong_labels,
        packages=("vizsla", "cleanlab", "torch"),
        options={
            "data": {"nargs": "+", "required": True, "type": str, "help": "folders"},
            "labels": {"default": "auto", "type": str, "help": "as for vizsla train"},
        },
        data="--data {folder}",
    ),
    "shortcuts": Command(
        asks="Which shortcuts are named, next to cleanlab?",
        run=shortcuts,
        packages=("vizsla", "cleanlab", "cleanvision", "torch", "pillow"),
        options={
            "data": {"nargs": "+", "required": True, "type": str, "help": "folders"},
            "labels": {"default": "auto", "type": str, "help": "as for vizsla train"},
        },
        data="--data {folder}",
    ),
    "near-duplicates": Command(
        asks="How many near duplicates are found, next to imagededup and cleanvision?",
        run=near_duplicates,
        packages=("vizsla", "imagededup", "cleanvision", "torch", "pillow"),
        options={
            "data": {"nargs": "+", "default": [CELLS], "type": str, "help": "folders, or cells"}
        },
        data="--data {folder}",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
