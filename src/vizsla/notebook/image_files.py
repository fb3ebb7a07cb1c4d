"""Folders of image files before training: download them from addresses, make them smaller, find the broken ones.

A download is an image that was decoded completely, under a name that is safe on every system, or it is named in the last line.
No file is replaced by another one.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
import threading
from collections import Counter
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

from PIL import Image

from vizsla.data.download import Patience, fetch
from vizsla.data.images.decode import cause_of, decode_image, size_from_header
from vizsla.data.images.decoded_size import format_of
from vizsla.data.loading.loader import read_ahead
from vizsla.data.table.sources import IMAGE_SUFFIXES, list_images
from vizsla.errors import ConfigError, DataError, OutputError, PictureError, VizslaError
from vizsla.files import only_writer
from vizsla.lists import L
from vizsla.machine import default_num_workers
from vizsla.text import counted, listed, quoted, say
from vizsla.train.display import make_display

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MOST_BYTES = 100 * 2**20
"""Largest image that ``download_images`` takes; photographs of 200 megapixels have less."""

_TIMEOUTS_IN_ALL = 15
"""How many times ``timeout`` one image may take in all: 60 s by default, enough for 10 MB at 1.4 Mbit/s."""

_LONGEST_NAME = 100
_SUFFIX_OF_FORMAT = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "HEIF": ".heic", "JPEG2000": ".jp2"}  # fmt: skip
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names of devices on Windows
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}

Outcome = tuple[str, str]
"""What became of a file: ``new``, ``there`` or ``failed`` and other words, and its name with the reason if it failed."""


def download_url(
    url: str,
    dest: Path | str | None = None,
    timeout: float | None = None,
    show_progress: bool = True,
) -> Path:
    """Download any file, whole or not at all, and return its path.

    An existing file of that name with different content is kept: it gets a number, and a line says so.

    Args:
        url: An ``https``, ``http`` or ``file`` address.
        dest: The file, or a folder for it; None is the current folder. The name is then that in the address.
        timeout: Seconds to wait for an answer or a byte; None is 30.
        show_progress: Draw a bar.

    Raises:
        ConfigError: The address is of another kind.
        DataError: The file cannot be downloaded.
        OutputError: It cannot be written.

    Examples:
        >>> download_url("https://example.com/bird.jpg", "birds/bird.jpg", show_progress=False)
    """
    target = Path() if dest is None else Path(dest)
    if target.is_dir():
        target /= safe_name(url)
    patience = Patience() if timeout is None else Patience(timeout=timeout)
    new = target.with_name(f".{target.name}.new")
    fetch(url, new, patience=patience, label=f"Downloading {target.name}" if show_progress else "")
    if target.exists() and not filecmp.cmp(new, target, shallow=False):
        numbered = _numbered(target.with_suffix(""), target.suffix)
        old = next(path for path in numbered if not path.exists())
        target.rename(old)
        say(f"{target} was a different file; it was renamed to {old.name}.")
    new.replace(target)
    return target


def download_images(
    dest: Path | str,
    url_file: Path | str | None = None,
    urls: Iterable[str] | None = None,
    max_pics: int = 1000,
    n_workers: int = 8,
    timeout: float = 4,
    preserve_filename: bool = False,
) -> None:
    """Download images in parallel, and keep those that can be decoded.

    Prints how many were downloaded, and what failed and why.

    Without ``preserve_filename`` an image is named by a digest of its address, so that another call downloads only missing
    images. With it, a name that is taken by a different image gets a number.

    Args:
        dest: Folder for the images; it is made.
        url_file: Text file with an address per line.
        urls: The addresses; instead of ``url_file``.
        max_pics: Take at most this many addresses.
        n_workers: Downloads at the same time.
        timeout: Seconds to wait for an answer or a byte of one image; each address is tried twice.
        preserve_filename: Keep the file names of the addresses.

    Raises:
        ConfigError: An argument cannot work.
        DataError: The file of addresses cannot be read, or no image could be downloaded.
        OutputError: The folder cannot be written to, or another process is downloading into it.

    Examples:
        >>> download_images("bears/grizzly", urls=["https://example.com/grizzly.jpg"])
    """
    folder = Path(dest)
    if folder.is_file() or (url_file is not None and Path(url_file).is_dir()):
        raise ConfigError(
            "download_images takes the folder first, then the file of addresses: download_images(dest, url_file). "
            f"Received: dest={quoted(folder)}, url_file={quoted(url_file or '')}"
        )
    if timeout <= 0 or n_workers < 0 or max_pics < 1:
        raise ConfigError(
            "timeout must be above 0, n_workers at least 0 and max_pics at least 1. Received: "
            f"timeout={timeout!r}, n_workers={n_workers!r}, max_pics={max_pics!r}"
        )
    addresses = _addresses(url_file, urls)
    chosen = addresses[:max_pics]
    if len(chosen) < len(addresses):
        say(f"{len(addresses):,} addresses were given; max_pics={max_pics:,} of them are used.")
    patience = Patience(
        timeout=timeout,
        num_pauses=1,
        most_seconds=_TIMEOUTS_IN_ALL * timeout,
        most_bytes=MOST_BYTES,
        quiet=True,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.stem for path in folder.iterdir()}
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Choose another folder.") from error  # fmt: skip
    naming = threading.Lock()

    def download(url: str) -> Outcome:
        stem = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if not preserve_filename and stem in there:
            return "there", url
        new = folder / f".{stem}.new"
        try:
            fetch(url, new, patience=patience)
            data = new.read_bytes()
            decode_image(new, data=data)
        except PictureError as error:
            return "failed", f"{url}: {cause_of(error)}"
        except OutputError:
            raise
        except VizslaError as error:
            return "failed", str(error)
        else:
            name = Path(safe_name(url))
            suffix = name.suffix.lower()
            if suffix not in IMAGE_SUFFIXES:
                kind = format_of(data)
                name, suffix = name.with_suffix(""), _SUFFIX_OF_FORMAT.get(kind, f".{kind.lower()}")
            with naming:
                target = folder / (name.stem if preserve_filename else stem)
                return _placed(new, target, suffix), url
        finally:
            new.unlink(missing_ok=True)

    with only_writer(folder / ".vizsla-download.lock", of=folder):
        outcomes = _in_parallel(download, chosen, n_workers, "Downloading")
    counts = Counter(what for what, _ in outcomes)
    if counts["failed"] == len(chosen):
        raise DataError(f"No image could be downloaded to {quoted(folder)}.\n{_failures(outcomes)}")  # fmt: skip
    also = f"; {counts['there']:,} already existed" if counts["there"] else ""
    say(f"{counted(counts['new'], 'image')} downloaded to {folder}{also}.")
    _say_failures(outcomes)


def _addresses(url_file: Path | str | None, urls: Iterable[str] | None) -> list[str]:
    """Return the addresses, each once: the same image twice would be in training and in validation."""
    if (url_file is None) == (urls is None):
        raise ConfigError("Give either url_file, a text file with an address per line, or urls.")
    if url_file is not None:
        try:
            found: list[Any] = Path(url_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"Cannot read the addresses in {quoted(url_file)}: {getattr(error, 'strerror', None) or error}. "
                "Give a text file with one address per line."
            ) from error
    else:
        found = [urls] if isinstance(urls, str) else list(urls or ())
    wrong = next((url for url in found if not isinstance(url, str)), None)
    if wrong is not None:
        raise ConfigError(f"An address is text, such as 'https://example.com/1.jpg'. Received: {wrong!r:.200}")  # fmt: skip
    found = list(dict.fromkeys(url.strip() for url in found if url.strip()))
    if not found:
        raise DataError("There are no addresses to download images from. Check the search or the file that gave them.")  # fmt: skip
    return found


def safe_name(url: str) -> str:
    """Return the file name in an address, without folders and with nothing that a system refuses or hides.

    Examples:
        >>> safe_name("https://example.com/a/..%2F.my%20cat.jpg?w=640")
        'my cat.jpg'
    """
    name = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    name = re.sub(r"[^\w.\- ]", "_", name).strip(". ")
    path = Path(name or "file")
    stem = path.stem.encode("utf-8", "ignore")[:_LONGEST_NAME].decode("utf-8", "ignore")
    name = f"{stem}{path.suffix[:16]}"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def _numbered(stem: Path, suffix: str) -> Iterable[Path]:
    return (stem.with_name(f"{stem.name}{number}{suffix}") for number in count(1))


def _placed(new: Path, stem: Path, suffix: str) -> str:
    """Give a new file its name, or a numbered one if another file has that; return ``there`` if the same file has it."""
    first = stem.with_name(f"{stem.name}{suffix}")
    target = first
    numbered = iter(_numbered(stem, suffix))
    while target.exists():
        if filecmp.cmp(new, target, shallow=False):
            return "there"
        target = next(numbered)
    new.replace(target)
    return "new"


def resize_images(
    path: Path | str,
    max_workers: int | None = None,
    max_size: int | None = None,
    recurse: bool = False,
    dest: Path | str = ".",
    n_channels: int = 3,
    ext: str | None = None,
    img_format: str | None = None,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    resume: bool | None = None,
    **kwargs: Any,
) -> None:
    """Resize the images of a folder into another folder, the larger side at most ``max_size``.

    Prints what was done and what failed.

    Images that fit are copied as they are. The others are written upright, in sRGB, transparent parts over white, as training
    sees them; none is enlarged. With ``dest`` the same as ``path`` each image that is too large is replaced by the smaller one.

    Args:
        path: The folder.
        max_workers: Threads; None is one for each core.
        max_size: Largest side in pixels; None keeps the size.
        recurse: Take the images in sub-folders too, to sub-folders of the same names.
        dest: Folder for the results; it is made.
        n_channels: 3 for RGB, 1 for grey.
        ext: Suffix of the new files, such as ``".png"``; None keeps that of each image.
        img_format: Format as Pillow names it; None follows from the suffix.
        resample: Pillow's filter.
        resume: Keep files that already exist in ``dest``, and print their number; False overwrites them.
        **kwargs: For Pillow's ``Image.save``, such as ``quality=90``.

    Raises:
        DataError: The folder does not exist or has no image, or not one image can be resized.
        ConfigError: An argument cannot work.
        OutputError: The folder cannot be written to.

    Examples:
        >>> resize_images("pets", max_size=256, dest="small", recurse=True)
    """
    source, target = Path(path), Path(dest)
    files = list(list_images(source, recurse=recurse).paths)
    in_place = target.resolve() == source.resolve()
    if not in_place:  # what an earlier call wrote below the source is not one of its images
        files = [file for file in files if not file.resolve().is_relative_to(target.resolve())]
    resize = partial(
        _resized, dest=target, src=source, max_size=max_size, n_channels=n_channels, ext=ext,
        img_format=img_format, resample=resample, resume=resume is not False, save_options=kwargs,
    )  # fmt: skip
    names = [file.relative_to(source) for file in files]
    workers = default_num_workers() if max_workers is None else max_workers
    if workers < 0:
        raise ConfigError(f"max_workers must be at least 0. Received: {max_workers}")
    outcomes = _in_parallel(resize, names, workers, "Resizing")
    counts = Counter(what for what, _ in outcomes)
    if outcomes and counts["failed"] == len(outcomes):
        raise DataError(f"No image in {quoted(source)} could be resized.\n{_failures(outcomes)}")  # fmt: skip
    words = {
        "resized": "resized",
        "copied": "copied as they were",
        "kept": "already fit",
        "there": "already existed (resume=False overwrites them)",
    }
    done = ", ".join(f"{counts[what]:,} {words[what]}" for what in words if counts[what])
    say(f"Images in {target}: {done}.")
    _say_failures(outcomes)


def resize_image(
    file: Path | str,
    dest: Path | str,
    src: Path | str = ".",
    max_size: int | None = None,
    n_channels: int = 3,
    ext: str | None = None,
    img_format: str | None = None,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    resume: bool = False,
    **kwargs: Any,
) -> None:
    """Write one image, ``src / file``, to ``dest / file`` as ``resize_images`` does, which describes the arguments.

    Raises:
        PictureError: The image cannot be read.
        ConfigError: An argument cannot work.
        OutputError: The result cannot be written.
    """
    what, name = _resized(
        Path(file), dest=Path(dest), src=Path(src), max_size=max_size, n_channels=n_channels, ext=ext,
        img_format=img_format, resample=resample, resume=resume, save_options=kwargs,
    )  # fmt: skip
    if what == "failed":
        raise PictureError(name)


def _resized(
    file: Path,
    *,
    dest: Path,
    src: Path,
    max_size: int | None,
    n_channels: int,
    ext: str | None,
    img_format: str | None,
    resample: Image.Resampling,
    resume: bool,
    save_options: dict[str, Any],
) -> Outcome:
    """Resize one image; see ``resize_images``."""
    mode = _MODE_OF_CHANNELS.get(n_channels)
    if mode is None or (max_size is not None and max_size < 1):
        raise ConfigError(
            f"n_channels must be 1 or 3, and max_size at least 1 pixel. Received: n_channels={n_channels!r}, "
            f"max_size={max_size!r}"
        )
    source, target = src / file, dest / file
    target = target if ext is None else target.with_suffix(ext)
    is_same = target.exists() and target.samefile(source)
    if resume and target.exists() and not is_same:
        return "there", str(file)
    try:
        before = size_from_header(source)
        after = before if before is None else _fitting(before, max_size)
        image = decode_image(source, cover=None if after == before else after)
    except PictureError as error:
        return "failed", str(error)
    after = after or (image.height, image.width)
    buffer = BytesIO()
    if after != before or ext is not None or img_format is not None or _mode_of(source) != mode:
        image = image.resize((after[1], after[0]), resample).convert(mode)
        known = Image.registered_extensions().get(target.suffix.lower())
        try:
            image.save(buffer, img_format or known, **save_options)
        except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
            return "failed", f"{source}: Pillow cannot write it as {target.suffix} ({error}). Give another suffix: ext='.jpg'."  # fmt: skip
        what = "resized"
    else:
        what = "kept" if is_same else "copied"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        if what == "resized":
            new.write_bytes(buffer.getvalue())
            new.replace(target)
        elif what == "copied":
            shutil.copy2(source, new)
            new.replace(target)
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror or error}. Free some space, or choose another folder.") from error  # fmt: skip
    return what, str(file)


def _fitting(size: tuple[int, int], most: int | None) -> tuple[int, int]:
    """Return the (height, width) at which the larger side of an image is at most ``most``."""
    longest = max(size)
    if most is None or longest <= most:
        return size
    return max(1, int(size[0] * most / longest)), max(1, int(size[1] * most / longest))


def _mode_of(file: Path) -> str:
    """Return Pillow's mode of an image file; empty where only another library reads it."""
    try:
        with Image.open(file) as opened:
            return opened.mode
    except OSError:
        return ""


def verify_image(fn: Path | str) -> bool:
    """Return whether a file can be read as an image; it is decoded completely.

    Args:
        fn: The file.
    """
    try:
        decode_image(fn)
    except PictureError:
        return False
    return True


def verify_images(fns: Iterable[Path | str]) -> L[Path | str]:
    """Return the files that cannot be read as images; every file is decoded completely, in a thread per core.

    Args:
        fns: Files.

    Raises:
        ConfigError: It is a folder or one file.
    """
    if isinstance(fns, str | Path):
        raise ConfigError(f"verify_images takes a list of files: verify_images(get_image_files({str(fns)!r})).")  # fmt: skip
    files, workers = list(fns), default_num_workers()
    fine = read_ahead(verify_image, files, num_workers=workers, max_waiting=8 * workers)
    return L([file for file, is_fine in zip(files, fine, strict=True) if not is_fine])


def search_images_ddg(*_term: Any, **_options: Any) -> NoReturn:
    """Say how to search for images today, under the names of functions whose services are gone.

    Raises:
        ConfigError: Always; the message has the lines to run instead.
    """
    raise ConfigError(
        "vizsla does not search the web, and the services behind search_images_ddg and search_images_bing are "
        "gone. Use the package ddgs instead (pip install ddgs):\n"
        "  from ddgs import DDGS\n"
        "  urls = L(DDGS().images('grizzly bear', max_results=200)).itemgot('image')\n"
        "  download_images(dest, urls=urls)"
    )


def _in_parallel(
    function: Callable[[Any], Outcome], jobs: Sequence[Any], num_workers: int, label: str
) -> list[Outcome]:
    """Return what a function gives for each job, called in threads, with a bar."""
    outcomes: list[Outcome] = []
    results = read_ahead(
        function, jobs, num_workers=num_workers, max_waiting=8 * max(1, num_workers)
    )
    with make_display().bar(label, total=len(jobs)) as move:
        for outcome in results:
            outcomes.append(outcome)
            move(len(outcomes))
    return outcomes


def _failures(outcomes: Iterable[Outcome]) -> str:
    return listed([reason for what, reason in outcomes if what == "failed"])


def _say_failures(outcomes: Sequence[Outcome]) -> None:
    number = sum(what == "failed" for what, _ in outcomes)
    if number:
        say(f"{counted(number, 'image')} could not be had:\n{_failures(outcomes)}")
