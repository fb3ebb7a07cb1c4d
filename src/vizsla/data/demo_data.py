"""The demo's data set: solar cells from an installed package, with its licence and the published results."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla.data.table.block import CategoryBlock
from vizsla.data.table.labels import LabelledImages
from vizsla.data.table.splits import stratified_split
from vizsla.errors import DataError, MissingExtraError
from vizsla.text import quoted

if TYPE_CHECKING:
    from vizsla.types import ImageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSetNote:
    """What must be said about a data set of others.

    Attributes:
        name: What it is.
        licence: Name of its licence.
        licence_url: Text of the licence.
        terms: What the licence asks for, in a sentence.
        citation: The works that its authors ask to be cited.
        published: (method, accuracy 0-1) of the paper named last in ``citation``.
    """

    name: str
    licence: str
    licence_url: str
    terms: str
    citation: tuple[str, ...]
    published: tuple[tuple[str, float], ...]


SOLAR_CELLS = DataSetNote(
    name="ELPV: 2,624 electroluminescence images of solar cells (package elpv-dataset)",
    licence="CC BY-NC-SA 4.0",
    licence_url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    terms="Non-commercial use only; credit the authors, and share adaptations under the same licence.",
    citation=(
        "Buerhop-Lutz, Deitsch, Maier, Gallwitz, Berger, Doll, Hauch, Camus, Brabec: A Benchmark for Visual "
        "Identification of Defective Solar Cells in Electroluminescence Imagery. EU PVSEC 2018, "
        "doi:10.4229/35thEUPVSEC20182018-5CV.3.15",
        "Deitsch, Buerhop-Lutz, Sovetkin, Steland, Maier, Gallwitz, Riess: Segmentation of photovoltaic module cells in "
        "uncalibrated electroluminescence images. Machine Vision and Applications 32(4), 2021, "
        "doi:10.1007/s00138-021-01191-9",
        "Deitsch, Christlein, Berger, Buerhop-Lutz, Maier, Gallwitz, Riess: Automatic classification of defective "
        "photovoltaic module cells in electroluminescence images. Solar Energy 185, 2019, 455-468, "
        "doi:10.1016/j.solener.2019.02.067, arXiv:1807.02894",
    ),
    published=(
        ("SVM on hand-crafted features", 0.8244),
        ("CNN (fine-tuned VGG19)", 0.8842),
    ),
)
"""The demo's data set; licence and citations as its package states them, accuracies from the abstract of the paper."""

DEFECT_THRESHOLD = 0.5
"""Cells whose probability of a defect, as experts rated it (0, 1/3, 2/3 or 1), is above this count as defective."""


def solar_cells(*, seed: int, valid_fraction: float = 0.25) -> ImageTable:
    """Return the solar cells of the package ``elpv-dataset``, functional against defective.

    The split keeps the parts of both classes and both cell types (mono- and polycrystalline), as Deitsch et al. 2019 did
    with 75 % for training; which cells they drew is not known.

    Raises:
        MissingExtraError: The package is not installed.
        DataError: The package does not hold what it should.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("elpv-dataset", extra="demo", purpose="train on solar cells")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    paths: list[Path] = []
    labels: list[str] = []
    groups: list[str] = []
    for number, (name, probability, cell_type) in enumerate(_records(folder / "labels.csv"), 1):
        try:
            defective = float(probability) > DEFECT_THRESHOLD
        except ValueError as error:
            raise DataError(
                f"{quoted(folder / 'labels.csv')}, row {number}: the defect probability is not a number. "
                f"Received: {probability!r}. Install the package again: pip install --force-reinstall elpv-dataset"
            ) from error
        paths.append(folder / name)
        labels.append("defective" if defective else "functional")
        groups.append(f"{labels[-1]} {cell_type}")
    train, valid = stratified_split(groups, valid_fraction=valid_fraction, seed=seed)
    images = LabelledImages(
        root=folder, paths=paths, labels=tuple(labels), train=train, valid=valid
    )
    return CategoryBlock().table(images)


def _records(file: Path) -> list[tuple[str, str, str]]:
    """Return the rows of the package's table: path, probability and cell type, separated by spaces."""
    try:
        rows = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(
            f"The table {quoted(file)} of the package elpv-dataset cannot be read: {error.strerror}. "
            "Install the package again: pip install --force-reinstall elpv-dataset"
        ) from error
    if not rows or any(len(row) != 3 for row in rows):
        raise DataError(
            f"The table {quoted(file)} does not have the three columns path, probability and type. "
            "Install it again: pip install --upgrade elpv-dataset"
        )
    return [(row[0], row[1], row[2]) for row in rows]
