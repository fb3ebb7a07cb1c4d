"""The address of a data set in, the folder with its files out; it is downloaded and unpacked the first time."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from vizsla.data.archives import extract_archive
from vizsla.data.download import Expected, download, local_path
from vizsla.data.lock import locked
from vizsla.data.room import home_folder
from vizsla.data.transfer import unwritable
from vizsla.data.transfer_bar import say, transfer_bar
from vizsla.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Generator

_S3 = "https://s3.amazonaws.com/fast-ai-"
_ENDINGS = re.compile(r"\.(tgz|tbz2?|txz|tar|zip|tar\.(gz|bz2|xz))$", re.IGNORECASE)


class URLs:
    """Addresses of the data sets that lessons use, as fast.ai publishes them; each has its own licence."""

    PETS = f"{_S3}imageclas/oxford-iiit-pet.tgz"
    DOGS = f"{_S3}sample/dogscats.tgz"
    IMAGENETTE = f"{_S3}imageclas/imagenette2.tgz"
    IMAGENETTE_160 = f"{_S3}imageclas/imagenette2-160.tgz"
    IMAGENETTE_320 = f"{_S3}imageclas/imagenette2-320.tgz"
    IMAGEWOOF = f"{_S3}imageclas/imagewoof2.tgz"
    IMAGEWOOF_160 = f"{_S3}imageclas/imagewoof2-160.tgz"
    IMAGEWOOF_320 = f"{_S3}imageclas/imagewoof2-320.tgz"
    IMAGEWANG = f"{_S3}imageclas/imagewang.tgz"
    IMAGEWANG_160 = f"{_S3}imageclas/imagewang-160.tgz"
    IMAGEWANG_320 = f"{_S3}imageclas/imagewang-320.tgz"
    MNIST = f"{_S3}imageclas/mnist_png.tgz"
    MNIST_SAMPLE = f"{_S3}sample/mnist_sample.tgz"
    MNIST_TINY = f"{_S3}sample/mnist_tiny.tgz"
    MNIST_VAR_SIZE_TINY = f"{_S3}imageclas/mnist_var_size_tiny.tgz"
    CIFAR = f"{_S3}sample/cifar10.tgz"
    CIFAR_100 = f"{_S3}imageclas/cifar100.tgz"
    FLOWERS = f"{_S3}imageclas/oxford-102-flowers.tgz"
    FOOD = f"{_S3}imageclas/food-101.tgz"
    CARS = f"{_S3}imageclas/stanford-cars.tgz"
    CUB_200_2011 = f"{_S3}imageclas/CUB_200_2011.tgz"
    CALTECH_101 = f"{_S3}imageclas/caltech_101.tgz"
    PLANET_SAMPLE = f"{_S3}sample/planet_sample.tgz"
    PLANET_TINY = f"{_S3}sample/planet_tiny.tgz"
    PASCAL_2007 = f"{_S3}imagelocal/pascal_2007.tgz"
    BIWI_HEAD_POSE = f"{_S3}imagelocal/biwi_head_pose.tgz"
    BIWI_SAMPLE = f"{_S3}sample/biwi_sample.tgz"


# Sizes: the table that fastai 2 checks its downloads against. SHA-256: only where two independent sources agree (Imagenette:
# TensorFlow Datasets and FastAI.jl; MNIST: FastAI.jl and users of the archive's original). The others are noted when they
# first come.
_EXPECTED = {
    URLs.PETS: Expected(size=811_706_944),
    URLs.DOGS: Expected(size=839_285_364),
    URLs.IMAGENETTE: Expected(
        size=1_557_161_267,
        sha256="6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    ),
    URLs.IMAGENETTE_160: Expected(
        size=99_003_388, sha256="64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5"
    ),
    URLs.IMAGENETTE_320: Expected(
        size=341_663_724, sha256="569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"
    ),
    URLs.IMAGEWOOF: Expected(size=1_343_715_595),
    URLs.IMAGEWOOF_160: Expected(size=92_612_825),
    URLs.IMAGEWOOF_320: Expected(size=328_387_740),
    URLs.IMAGEWANG: Expected(size=2_900_347_689),
    URLs.IMAGEWANG_160: Expected(size=191_498_213),
    URLs.IMAGEWANG_320: Expected(size=669_826_647),
    URLs.MNIST: Expected(
        size=15_683_414, sha256="9e18edaa3a08b065d8f80a019ca04329e6d9b3e391363414a9bd1ada30563672"
    ),
    URLs.MNIST_SAMPLE: Expected(size=3_214_948),
    URLs.MNIST_TINY: Expected(size=342_207),
    URLs.MNIST_VAR_SIZE_TINY: Expected(size=565_372),
    URLs.CIFAR: Expected(size=168_168_549),
    URLs.CIFAR_100: Expected(size=169_168_619),
    URLs.FLOWERS: Expected(size=345_236_087),
    URLs.FOOD: Expected(size=5_686_607_260),
    URLs.CARS: Expected(size=1_957_803_273),
    URLs.CUB_200_2011: Expected(size=1_150_585_339),
    URLs.CALTECH_101: Expected(size=131_740_031),
    URLs.PLANET_SAMPLE: Expected(size=15_523_994),
    URLs.PLANET_TINY: Expected(size=997_569),
    URLs.PASCAL_2007: Expected(size=1_637_796_771),
    URLs.BIWI_HEAD_POSE: Expected(size=452_316_199),
    URLs.BIWI_SAMPLE: Expected(size=593_774),
}


def untar_data(
    url: str,
    archive: Path | str | None = None,
    data: Path | str | None = None,
    c_key: str = "data",
    force_download: bool = False,
    base: Path | str | None = None,
) -> Path:
    """Return the folder of a data set; the first time it is downloaded and unpacked.

    Folders are named within ``$VIZSLA_HOME``, or ``~/.vizsla``. The archive is kept. A folder that exists is taken as it
    is: it appears under its name only when it is whole.

    Args:
        url: An ``https``, ``http`` or ``file`` address of a tar or zip file, such as ``URLs.PETS``.
        archive: Folder for the archive; None: ``archive``.
        data: Folder in which that of the data set is made; None: the one named ``c_key``.
        c_key: See ``data``.
        force_download: Download and unpack it again. What is there stays until the new one is whole.
        base: Folder within which the others are named; None: see above.

    Returns:
        The folder, named as the archive without its ending. Where all that the archive holds lies in one folder, it is
        that folder.

    Raises:
        ConfigError: Another kind of address, or one that does not end in a file name.
        DataError: It cannot be downloaded, is not what was expected, or is unsafe to unpack.
        OutputError: It cannot be written.

    Example:
        >>> path = untar_data(URLs.PETS)
    """
    name, stem = _names(url)
    home = home_folder() if base is None else Path(base).expanduser()
    folder = home / (c_key if data is None else data) / stem
    if folder.is_dir() and not force_download:
        return folder
    local = local_path(url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder.parent, error) from error
    waiting = f"Another program is making {folder}; waiting for it."
    with locked(folder.with_name(f".{stem}.lock"), on_wait=lambda: say(waiting)):
        if folder.is_dir() and not force_download:
            return folder
        place = home / ("archive" if archive is None else archive) / name
        if local is None:
            local = download(url, place, expected=_EXPECTED.get(url), force=force_download)
        _unpack(local, folder)
    return folder


def _names(url: str) -> tuple[str, str]:
    """Return the name of an archive, and that of its folder."""
    name = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    stem = _ENDINGS.sub("", name) if _ENDINGS.search(name) else Path(name).stem
    if not stem.strip(". ") or "\0" in name:
        raise ConfigError(
            f"The address of a data set ends in the name of its archive, as in {URLs.PETS}. Received: {url!r}"
        )
    return name, stem


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive beside ``folder`` and move it there when it is whole."""
    fresh = folder.with_name(f".{folder.name}.part")
    if fresh.exists():  # of a program that was killed; we have the lock
        with _written_to(fresh):
            shutil.rmtree(fresh)
    with transfer_bar(f"Unpacking {archive.name}") as bar:
        extract_archive(archive, fresh, progress=bar.move)
    try:
        _put_in_place(_inner(fresh, archive), folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _inner(fresh: Path, archive: Path) -> Path:
    """Return the only folder in what was unpacked, or all of it; what macOS adds to archives does not count."""
    entries = [entry for entry in fresh.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if not entries:
        raise DataError(f"The archive {archive} holds no files. Check its address.")
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else fresh


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Rename ``fresh`` to ``folder``; a folder of that name goes away only after that."""
    old = folder.with_name(f".{folder.name}.old")
    with _written_to(folder):
        if old.exists():
            shutil.rmtree(old)
        replaced = folder.exists()
        if replaced:
            os.rename(folder, old)  # noqa: PTH104 (as os.replace in files.py)
        try:
            os.rename(fresh, folder)  # noqa: PTH104
        except OSError:
            if replaced:
                os.rename(old, folder)  # noqa: PTH104
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _written_to(place: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(place, error) from error
