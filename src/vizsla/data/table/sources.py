"""Find the images in a folder, in an order that is the same everywhere; nothing is decoded."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vizsla.errors import DataError
from vizsla.paths import ImagePaths
from vizsla.text import counted, listed, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Written out because Python's mimetypes module reads files of the operating system: the same folder would give other
# images on another machine. Kinds that Pillow may not open (heic, jxl, camera raw) are here too, so that they are
# reported as unreadable instead of left out in silence. Drawings (svg) are no images for a classifier.
# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".apng", ".arw", ".avif", ".avifs", ".bmp", ".cr2", ".cur", ".dcx", ".dds", ".dib", ".dng",
    ".emf", ".eps", ".gif", ".heic", ".heif", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif",
    ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".mpo", ".msp", ".nef", ".orf",
    ".pbm", ".pcx", ".pfm", ".pgm", ".pjpeg", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".raf",
    ".ras", ".rgb", ".rgba", ".rw2", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".wmf", ".xbm",
    ".xpm",
))
# fmt: on
"""Lower-case file name endings that count as images."""

MAX_NESTED_LINKS = 16
"""Symbolic links to folders that are followed on the way down to one image."""


def get_image_files(
    path: Path | str, recurse: bool = True, folders: Sequence[str] | str | None = None
) -> list[Path]:
    """Return the images in a folder, sorted by their posix path, so that a seed gives the same split everywhere.

    Symbolic links are followed, loops are not. Files and folders whose names start with a dot are left out.

    Args:
        path: The folder.
        recurse: Whether to look into its sub-folders.
        folders: Only these sub-folders of ``path`` (``"."`` for the files directly in it); ``None`` for all.

    Returns:
        Paths that start with ``path``.

    Raises:
        DataError: The folder does not exist or cannot be read, one of ``folders`` does not exist, or there is no image.

    Examples:
        >>> files = get_image_files("pets")
    """
    return list(list_images(path, recurse=recurse, folders=folders).paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Images as they were found in a folder.

    Attributes:
        paths: Sorted by their posix path.
        in_doubt: Positions of those that may not be there after all, which are links. All others are files, and no path
            comes up twice. ``None``: folders were given that lie in one another, and nothing is known of any.
    """

    paths: ImagePaths
    in_doubt: tuple[int, ...] | None


def list_images(
    path: Path | str, *, recurse: bool = True, folders: Sequence[str] | str | None = None
) -> Listing:
    """Return the images in a folder without a ``Path`` for each; see ``get_image_files``.

    Args:
        path: The folder.
        recurse: Whether to look into its sub-folders.
        folders: Only these sub-folders of ``path``; ``None`` for all.

    Raises:
        DataError: As ``get_image_files`` raises it.
    """
    root = Path(path)
    check_folder(root)
    starts: list[tuple[Path, bool]]
    if folders is None or not recurse:
        starts = [(root, recurse)]
    else:
        chosen = [folders] if isinstance(folders, str) else list(folders)
        starts = [(root, False) if name == "." else (root / name, True) for name in chosen]
        for start, _ in starts:
            check_folder(start)
    walk = _Walk()
    starts.sort(key=lambda start: f"{start[0].as_posix()}/")
    paths = ImagePaths.in_folders(
        run for start, below in starts for run in walk.runs(start, recurse=below)
    )
    if not paths:
        raise DataError(_no_images(root, walk.others, recurse=recurse))
    if len(starts) == 1 or _lie_apart([start for start, _ in starts]):
        return Listing(paths=paths, in_doubt=tuple(walk.links))
    texts = sorted(image.as_posix() for image in paths)
    return Listing(paths=ImagePaths(texts), in_doubt=None)


def _lie_apart(folders: Sequence[Path]) -> bool:
    """Return whether no folder is, or lies in, another one of these, by their names."""
    places = [folder.absolute() for folder in folders]
    return len(set(places)) == len(places) and not any(
        parent in places for place in places for parent in place.parents
    )


def is_image_name(name: str) -> bool:
    """Return whether a file of this name counts as an image."""
    return _suffix(name) in IMAGE_SUFFIXES


def check_folder(folder: Path) -> None:
    """Raise an error if a folder does not exist; it lists the folders that are there instead.

    Raises:
        DataError: There is no such folder, or it is a file.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{quoted(folder)} is a file. Give the folder that holds the images.")
    present = folder.parent
    while present != present.parent and not present.is_dir():
        present = present.parent
    try:
        names = sorted(child.name for child in present.iterdir() if child.is_dir())
    except OSError:
        names = []
    there = (
        f" In {quoted(present)} there are the folders:\n{listed([quoted(name) for name in names])}"
    )
    raise DataError(
        f"There is no folder {quoted(folder)}. Check the spelling.{there if names else ''}"
    )


class _Walk:
    """A way through folders, and what is found on it besides images.

    Attributes:
        links: Positions of images that are links.
        others: Endings of the files that are no images.
    """

    def __init__(self) -> None:
        self.links: list[int] = []
        self.others: Counter[str] = Counter()
        self._num_images = 0

    def runs(self, start: Path, *, recurse: bool) -> Iterator[tuple[str, list[str]]]:
        """Yield (folder with a separator at its end, names of images in it), in the order of the posix paths."""
        # os.scandir tells folders from files without a stat call each: 50,000 files take a third of the time of Path.rglob.
        place = str(start)
        prefix = "" if start == Path() else os.path.join(place, "")  # noqa: PTH118 (the separator at its end)
        waiting: list[_Folder | _Run] = [
            _Folder(place, prefix, frozenset({folder_identity(place)}), 0)
        ]
        while waiting:
            part = waiting.pop()
            if isinstance(part, _Folder):
                waiting += reversed(list(self._parts(part, recurse=recurse)))
                continue
            self.links += [self._num_images + position for position in part.links]
            self._num_images += len(part.names)
            yield part.prefix, part.names

    def _parts(self, folder: _Folder, *, recurse: bool) -> Iterator[_Folder | _Run]:
        """Yield runs of images, and folders between them where their paths belong by their order."""
        try:
            with os.scandir(folder.path) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"The folder {quoted(folder.path)} cannot be read: {error.strerror}. "
                "Change its permissions, or give a folder that does not contain it."
            ) from error
        inside: dict[str, os.DirEntry[str]] = {}
        names: list[str] = []
        linked: set[str] = set()
        for entry in entries:
            name = entry.name
            if is_folder_entry(entry):
                inside[f"{name}/"] = entry
            elif _suffix(name) not in IMAGE_SUFFIXES:
                self.others[_suffix(name) or "(no extension)"] += 1
            elif entry.is_symlink():  # a broken link is kept: it is reported as missing
                names.append(name)
                linked.add(name)
            elif entry.is_file():
                names.append(name)
        names.sort()
        first = 0
        for name in sorted(inside) if recurse else ():
            last = bisect_left(names, name)
            if last > first:
                yield _run(folder.prefix, names[first:last], linked)
            first = last
            below = self._below(folder, inside[name])
            if below is not None:
                yield below
        if len(names) > first:
            yield _run(folder.prefix, names[first:], linked)

    def _below(self, folder: _Folder, entry: os.DirEntry[str]) -> _Folder | None:
        """Return a folder in a folder; None where it is one of those that it lies in."""
        identity, links = folder_identity(entry.path), folder.num_links + entry.is_symlink()
        if identity in folder.ancestors:
            return None
        if links > MAX_NESTED_LINKS:
            raise DataError(
                f"More than {MAX_NESTED_LINKS} linked folders lie inside one another at {quoted(entry.path)}. "
                "Remove the symbolic links that point back up."
            )
        prefix = f"{folder.prefix}{entry.name}{os.sep}"
        return _Folder(entry.path, prefix, folder.ancestors | {identity}, links)


class _Folder(NamedTuple):
    """A folder that is to be looked into; the prefix is its path as ``Path`` writes it, with a separator at the end."""

    path: str
    prefix: str
    ancestors: frozenset[tuple[int, int]]
    num_links: int


class _Run(NamedTuple):
    """Images of one folder whose paths follow one another."""

    prefix: str
    names: list[str]
    links: list[int]


def _run(prefix: str, names: list[str], linked: set[str]) -> _Run:
    links = [position for position, name in enumerate(names) if name in linked] if linked else []
    return _Run(prefix, names, links)


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a folder; a link that points to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def folder_identity(folder: str) -> tuple[int, int]:
    """Return what is the same for all paths of a folder: links may lead to it in circles."""
    status = os.stat(folder)  # noqa: PTH116 (a Path for each folder would be made for nothing)
    return status.st_dev, status.st_ino


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def _no_images(root: Path, others: Counter[str], *, recurse: bool) -> str:
    where = f"in {quoted(root)}" + (" and the folders below it" if recurse else "")
    if not others:
        return (
            f"There are no images {where}: no files at all. Give the folder that holds the images."
        )
    kinds = [f"{suffix}: {counted(number, 'file')}" for suffix, number in others.most_common()]
    return (
        f"There are no images {where}. The files there have these extensions:\n{listed(kinds)}\n"
        "Give the folder that holds the images, or convert them to JPEG or PNG."
    )
