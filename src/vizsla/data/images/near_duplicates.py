"""Find images made from one photograph: saved again, resized, cropped by up to a tenth, mirrored, a little brighter.

Each stage looks at fewer pairs, with more pixels: nearest neighbours by 64 numbers of each image (and of its features), the best of
37 windows at 16 x 16, an alignment at 32 x 32, and another at 64 x 64, whose correlation decides.

N: images; P: pairs; S: side of a grey image; W: windows. A *placement* ``(scale, shift)`` of rows and of columns, ``(P, 4)``, says
where the pixels of one image lie in another: at ``scale * u + shift``, with u from -1 to 1.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections import defaultdict
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from vizsla.data.images.decode import decode_image
from vizsla.data.images.facts import FLAT
from vizsla.data.loading.loader import map_rows
from vizsla.errors import ConfigError, OutputError, PictureError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Self

    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable

LEAST_NEAR_LIKENESS = 0.98
"""Likeness of near duplicates at least. Of 3 % planted in 1,272 photographs each had 0.998; others reached 0.91."""
_MOST_LIKENESS = (
    0.9995  # Images saved again at quality 30 have 0.9993 and more where others have up to 0.9989.
)
_TIMES = 20  # Near duplicates differ by at most 1/20 of what ordinary neighbours do: this gives 0.9988 for solar cells.
_USUAL_SHARE = (
    0.01  # An ordinary neighbour comes behind the nearest 1 % of the set, and behind the nearest 8.
)
_SIDE, _MIDDLE, _COARSE = 64, 32, 16
_DECODED_SIDE = 128
_NUMBERS = 64
_NEIGHBOURS = 8
_NEAR = 0.55
_SAMPLED = 8192
_MOVED = 0.015  # A scale or shift by more is a crop; rounding while resizing stays below 0.01.

Kind = Literal["re-encoded or resized", "cropped", "mirrored"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """How an image of a group relates to the group's first.

    Attributes:
        kind: What it was made by; an image that is mirrored may be cropped, too.
        likeness: Correlation of the grey values 0-1 where the two overlap, after alignment. Members that are in the group by way
            of another one may have less than ``LEAST_NEAR_LIKENESS``.
    """

    kind: Kind
    likeness: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Images made from one photograph.

    Attributes:
        rows: Rows of the table, two or more, ascending.
        relations: How each of ``rows[1:]`` relates to ``rows[0]``.
    """

    rows: tuple[int, ...]
    relations: tuple[Relation, ...]


class GreyImages:
    """Images as they are compared: grey, squeezed to 64 x 64, zeros (like nothing) for those flat or not put.

    All pixels are in a temporary file, 16 x 16 of them in memory, too: 410 and 51 MB for 100,000 images. To be closed.

    Raises:
        OutputError: The temporary folder has no room, or cannot be written to.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._slots = torch.arange(count)
        # Sums of 4 x 4 pixels, so that a float32 of them is exact.
        self._coarse = torch.zeros((count, _COARSE, _COARSE), dtype=torch.int16)
        with _writing():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open as long as this is)
            self._file.truncate(count * _SIDE**2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, place: int, image: Image.Image) -> None:
        """Take an image of which both sides have 128 pixels at least, or all that there are. Safe in any threads."""
        # Smooth enough to be moved by parts of a pixel: with BOX a mirrored copy differs by 2 grey values, with this by 0.4.
        grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
        if grey.std() < FLAT:
            return
        step = _SIDE // _COARSE
        sums = grey.reshape(_COARSE, step, _COARSE, step).sum(axis=(1, 3), dtype=np.int16)
        self._coarse[place] = torch.from_numpy(sums)
        with self._lock, _writing():
            self._file.seek(place * _SIDE**2)
            if self._file.write(grey.tobytes()) < _SIDE**2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def of(self, places: Tensor) -> GreyImages:
        """Return some of them, int64 or bool, in another order; they share the file."""
        found = copy(self)
        found._slots = self._slots[places]
        return found

    def scaled(self, places: Tensor, side: int) -> Tensor:
        """Return some images, float32 ``(P, side, side)``, grey values 0-255."""
        slots = self._slots[places]
        if side == _COARSE:
            return self._coarse[slots].float() / (_SIDE // _COARSE) ** 2
        pixels = bytearray()
        with self._lock:
            for slot in slots.tolist():
                self._file.seek(slot * _SIDE**2)
                pixels += self._file.read(_SIDE**2)
        greys = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, _SIDE, _SIDE)
        return avg_pool2d(greys.float(), _SIDE // side)


@contextmanager
def _writing() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            "The search for near duplicates needs 4 KB per image in a temporary file under "
            f"{tempfile.gettempdir()}: {error.strerror}. Free some space, or set TMPDIR to another folder."
        ) from error


def find_near_duplicates(
    table: ImageTable,
    rows: Tensor,
    features: Tensor | None = None,
    *,
    greys: GreyImages | None = None,
    num_workers: NumWorkers = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Group, ...]:
    """Read some images once and return the groups that were made from one photograph; files with the same bytes are among them.

    Where all images of a set look alike, as cells of solar modules do, a pair must be the more alike to count. Images without
    contrast and those that cannot be read are in no group. Of more than 64 images each is compared with those most like it, 8 by
    grey values, mirrored ones and features each: of a photograph that is there a hundred times all copies are found, as a chain.

    Args:
        table: The images.
        rows: int64 ``(N,)``, rows of the table.
        features: float32 ``(N, D)``, what a frozen network makes of these rows. They find crops of images that all look alike;
            None compares grey values alone, which finds as much among photographs.
        greys: These rows as they are compared, if they were read already; None reads them.
        num_workers: Threads that read, see ``map_rows``.
        on_progress: Called after each image read, with the number of images read so far.

    Raises:
        ConfigError: ``features`` or ``greys`` have another number of rows.
        OutputError: There is no room for the temporary file of ``GreyImages``.
    """
    if greys is None:
        with GreyImages(len(rows)) as greys:
            _read_greys(greys, table, rows, num_workers=num_workers, on_progress=on_progress)
            return find_near_duplicates(table, rows, features, greys=greys)
    if len(greys) != len(rows):
        raise ConfigError(
            f"greys must have one image for each of the {len(rows)} rows. Received: {len(greys)}"
        )
    if features is not None and (features.ndim != 2 or len(features) != len(rows)):
        raise ConfigError(
            f"features must have one row for each of the {len(rows)} rows: ({len(rows)}, D). Received: shape "
            f"{tuple(features.shape)}"
        )
    rows, order = rows.sort()
    features = None if features is None else features[order]
    greys = greys.of(order)
    if len(rows) < 2:
        return ()
    pairs = _find_pairs(greys, features)
    return tuple(
        Group(
            rows=tuple(int(rows[place]) for place in group),
            relations=_relations(greys, group, pairs),
        )
        for group in _joined(pairs)
    )


def _read_greys(
    greys: GreyImages,
    table: ImageTable,
    rows: Tensor,
    *,
    num_workers: NumWorkers,
    on_progress: Callable[[int], None] | None,
) -> None:
    row_of = rows.tolist()

    def read(place: int) -> None:
        with suppress(PictureError):
            image = decode_image(
                table.paths[row_of[place]],
                cover=(_DECODED_SIDE, _DECODED_SIDE),
                truncated="ok",
                bit_depth=table.bit_depth,
            )
            greys.put(place, image)

    map_rows(read, torch.arange(len(rows)), num_workers=num_workers, on_progress=on_progress)


# ── candidates ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pairs:
    """Pairs of images by their places in ``greys``; of the second one its mirror image is meant where ``mirrored``."""

    first: Tensor
    second: Tensor
    mirrored: Tensor

    def of(self, chosen: Tensor | slice) -> _Pairs:
        return _Pairs(
            first=self.first[chosen], second=self.second[chosen], mirrored=self.mirrored[chosen]
        )

    def greys(self, greys: GreyImages, side: int) -> tuple[Tensor, Tensor]:
        """Return both images of each pair, float32 ``(P, side, side)``."""
        second = greys.scaled(self.second, side)
        mirrored = self.mirrored[:, None, None]
        return greys.scaled(self.first, side), torch.where(mirrored, second.flip(2), second)


def _candidates(greys: GreyImages, features: Tensor | None) -> _Pairs:
    """Return the pairs of which one is among the nearest neighbours of the other, each once; of few images all pairs."""
    num = len(greys)
    if num <= _NUMBERS:
        first, second = torch.triu_indices(num, num, 1).repeat(1, 2)
        mirrored = torch.arange(len(first)) < len(first) // 2
        return _Pairs(first=first, second=second, mirrored=mirrored)
    found: list[Tensor] = []  # (first * N + second) * 2 + mirrored, first < second

    def add(near: Tensor, mirrored: int) -> None:
        first = torch.arange(num)[:, None].expand_as(near)
        low, high = torch.minimum(first, near), torch.maximum(first, near)
        found.append((((low * num + high) * 2 + mirrored)[near >= 0]).unique())

    # Between the whole image and a window of it, a query is near to full copies and to crops.
    window = _axis(torch.tensor([0.95]), torch.zeros(1), _COARSE)
    chosen = torch.linspace(0, num - 1, min(num, _SAMPLED)).long()
    compress = _compression(_unit(greys.scaled(chosen, _COARSE)))
    vectors: list[Tensor] = []
    queries: tuple[list[Tensor], ...] = ([], [])
    for part in torch.arange(num).split(4096):  # 100,000 images at once would take 0.5 GB
        small = greys.scaled(part, _COARSE)
        vectors.append(compress(_unit(small)))
        for query, images in zip(queries, (small, small.flip(2)), strict=True):
            inner = compress(_unit(window @ images @ window.mT))
            query.append(normalize(compress(_unit(images)) + inner, dim=1))
    for mirrored, query in enumerate(queries):
        add(_nearest(torch.cat(query), torch.cat(vectors)), mirrored)
    if features is not None:
        projected = _compression(features)(features)
        near = _nearest(projected, projected)
        add(near, 0)
        add(near, 1)
    keys = torch.cat(found).unique()
    both = keys // 2
    return _Pairs(first=both // num, second=both % num, mirrored=keys % 2 == 1)


def _compression(values: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what turns values ``(N, D)`` into vectors ``(N, 64)`` of length 1, by the principal components of a sample.

    Components are weighted by their deviation to the power of -0.6: what all images have in common counts little.
    """
    chosen = torch.linspace(0, len(values) - 1, min(len(values), _SAMPLED)).long()
    sample = values[chosen].nan_to_num()
    mean = sample.mean(dim=0)
    centred = (
        sample - mean
    ).double()  # in float32 the decomposition fails where many images are the same
    wide = centred.shape[1] > len(centred)
    variances, directions = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    # With as many components as images, all images are equally unlike.
    num = max(1, min(_NUMBERS, len(sample) // 8))
    variances, directions = variances[-num:].clamp_min(0), directions[:, -num:]
    if wide:  # the same directions from the smaller matrix
        directions = normalize(centred.T @ directions, dim=0)
    variances, directions = (variances / len(centred)).float(), directions.float()
    weights = variances.clamp(min=1e-4 * float(variances[-1]) + 1e-12) ** -0.3
    projection = directions * weights

    def compress(values: Tensor) -> Tensor:
        parts = [(part.nan_to_num() - mean) @ projection for part in values.split(4096)]
        return normalize(torch.cat(parts), dim=1)

    return compress


def _nearest(queries: Tensor, vectors: Tensor) -> Tensor:
    """Return the places of the 8 vectors nearest to each query, other than its own: int64 ``(N, 8)``, -1 for none near enough."""
    tile, block = (
        4096,
        64,
    )  # A tile of likenesses stays in the processor's caches: half the time of whole rows.
    num, width = vectors.shape
    padded = torch.cat([vectors, vectors.new_zeros(-num % tile, width)])
    starts = torch.arange(0, len(padded), tile)[:, None] + torch.arange(tile // block)
    within = torch.arange(0, tile, tile // block)
    found = torch.empty((num, _NEIGHBOURS), dtype=torch.int64)
    for start in range(0, num, 256):
        query = queries[start : start + 256]
        maxima = [
            (query @ part.T).view(len(query), block, -1).amax(dim=1) for part in padded.split(tile)
        ]
        # The nearest lie in the blocks with the highest maxima; one more, since one may owe its maximum to the image itself.
        best = torch.cat(maxima, dim=1).topk(_NEIGHBOURS + 1, dim=1).indices
        places = (starts.flatten()[best][:, :, None] + within).flatten(1)
        likeness = (padded[places] @ query[:, :, None])[:, :, 0]
        own = torch.arange(start, start + len(query))[:, None]
        near = likeness.where(places != own, -1).topk(_NEIGHBOURS, dim=1)
        found[start : start + 256] = places.gather(1, near.indices).where(near.values >= _NEAR, -1)
    return found


# ── verification ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _find_pairs(greys: GreyImages, features: Tensor | None) -> dict[tuple[int, int], Relation]:
    """Return the pairs that are near duplicates."""
    cut = _least_likeness(greys)
    pairs = _candidates(greys, features)
    found: dict[tuple[int, int], Relation] = {}
    likeness, placement = _best_windows(greys, pairs)
    keep = (likeness >= _WORTH_ALIGNING) & _is_among_best(pairs, likeness)
    pairs, placement = pairs.of(keep), placement[keep]
    likeness, placement = _align(greys, pairs, _MIDDLE, placement)
    # At 64 x 64 the difference may fall to a quarter.
    keep = likeness >= 1 - 4 * (1 - cut)
    pairs, placement = pairs.of(keep), placement[keep]
    likeness, placement = _align(greys, pairs, _SIDE, placement)
    for place in (likeness >= cut).nonzero()[:, 0].tolist():
        pair = int(pairs.first[place]), int(pairs.second[place])
        relation = _relation(
            bool(pairs.mirrored[place]), float(likeness[place]), placement[place].tolist()
        )
        if pair not in found or found[pair].likeness < relation.likeness:
            found[pair] = relation
    return found


_WORTH_ALIGNING = 0.7
_BEST = 4


def _least_likeness(greys: GreyImages) -> float:
    """Return how alike two images of this set must be: the more, the more alike its images are anyway."""
    num = len(greys)
    if num < 4 * _NEIGHBOURS:  # too few to tell what is usual
        return LEAST_NEAR_LIKENESS
    small = _unit(greys.scaled(torch.arange(num), _COARSE))
    queries = small[torch.linspace(0, num - 1, min(num, 512)).long()]
    rank = max(_NEIGHBOURS, int(_USUAL_SHARE * num)) + 1
    usual = torch.cat(
        [(part @ small.T).topk(rank, dim=1).values[:, -1] for part in queries.split(64)]
    )
    cut = 1 - (1 - float(usual.quantile(0.95))) / _TIMES
    return min(max(cut, LEAST_NEAR_LIKENESS), _MOST_LIKENESS)


def _is_among_best(pairs: _Pairs, likeness: Tensor) -> Tensor:
    """Return which pairs are among the best four of one of their images: bounds the work where all images look alike."""
    keep = torch.zeros(len(likeness), dtype=torch.bool)
    for ends in (pairs.first, pairs.second):
        order = likeness.argsort(descending=True, stable=True)
        order = order[ends[order].argsort(stable=True)]
        ends = ends[order]
        position = torch.arange(len(ends))
        rank = position - torch.searchsorted(ends, ends)
        keep[order[rank < _BEST]] = True
    return keep


def _align(greys: GreyImages, pairs: _Pairs, side: int, placement: Tensor) -> tuple[Tensor, Tensor]:
    """Return likeness ``(P,)`` and placement ``(P, 4)`` of pairs, aligned from a placement on at ``side x side``."""
    likenesses, placements = [torch.empty(0)], [torch.empty(0, 4)]
    step = 2**18 // side**2  # What the caches of a processor hold.
    for start in range(0, len(pairs.first), step):
        part = slice(start, start + step)
        likeness, placed = _aligned(*pairs.of(part).greys(greys, side), placement[part])
        likenesses.append(likeness)
        placements.append(placed)
    return torch.cat(likenesses), torch.cat(placements)


def _windows() -> Tensor:
    """Return placements ``(W, 4)``: the whole image, and 9 positions of windows of four sizes."""
    found = [(1.0, 0.0, 1.0, 0.0)]
    for scale in (0.96, 0.92, 0.88, 0.84):
        shifts = (scale - 1, 0.0, 1 - scale)
        found += [(scale, down, scale, right) for down in shifts for right in shifts]
    return torch.tensor(found)


def _best_windows(greys: GreyImages, pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Return likeness and placement of the window of one image of each pair that is most like the other, either way round."""
    windows = _windows()
    rows, columns = _axes(windows, _COARSE)
    sampler = torch.einsum("wij,wkl->jlwik", rows, columns).reshape(_COARSE**2, -1)
    (down, up), (right, left) = windows[:, :2].unbind(1), windows[:, 2:].unbind(1)
    # A window of the first image, in terms of the second, is the inverse placement.
    inverse = torch.stack([1 / down, -up / down, 1 / right, -left / right], dim=1)
    likeness = torch.full((len(pairs.first),), -1.0)
    placement = torch.empty((len(likeness), 4))
    first, second = pairs.first * 2, pairs.second * 2 + pairs.mirrored

    def images(keys: Tensor) -> Tensor:
        small = greys.scaled(keys // 2, _COARSE)
        return torch.where((keys % 2 == 1)[:, None, None], small.flip(2), small).flatten(1)

    for ours, theirs, placements in ((second, first, windows), (first, second, inverse)):
        for part in ours.argsort().split(512):
            sources, source = ours[part].unique(return_inverse=True)
            seen = _unit((images(sources) @ sampler).view(-1, _COARSE**2))
            seen = seen.view(len(sources), len(windows), -1)
            alike = (seen[source] @ _unit(images(theirs[part]))[:, :, None])[:, :, 0].max(dim=1)
            better = alike.values > likeness[part]
            likeness[part[better]] = alike.values[better]
            placement[part[better]] = placements[alike.indices[better]]
    return likeness, placement


def _aligned(first: Tensor, second: Tensor, placement: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best likeness and its placement after Gauss-Newton steps from a placement."""
    best, found = placement.new_full((len(placement),), -1.0), placement
    for steps_left in reversed(range(6)):
        placed, inside = _placed(second, placement)
        likeness = _likeness(first, placed, inside)
        found = placement.where((likeness > best)[:, None], found)
        best = torch.maximum(best, likeness)
        if steps_left:
            placement = _step(first, placed, inside, placement)
    return best, found


def _step(first: Tensor, placed: Tensor, inside: Tensor, placement: Tensor) -> Tensor:
    """Return a better placement: least squares of the first image by the placed second one, its derivatives and a constant."""
    side = first.shape[-1]
    u = _positions(side)
    within = (u.abs() < 1 - 1.5 / side).float()  # The outermost pixels have no derivatives.
    inside = inside * within * within[:, None]
    down, right = torch.zeros_like(placed), torch.zeros_like(placed)
    down[:, 1:-1] = (placed[:, 2:] - placed[:, :-2]) * (side / 4)
    right[:, :, 1:-1] = (placed[:, :, 2:] - placed[:, :, :-2]) * (side / 4)
    down, right = down / placement[:, 0, None, None], right / placement[:, 2, None, None]
    columns = [down * u[:, None], down, right * u, right, placed, torch.ones_like(placed)]
    design = torch.stack(columns, dim=1).flatten(2)
    weighted = design * inside.flatten(1)[:, None]
    normal = weighted @ design.mT
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-3
    solved = torch.linalg.solve(
        normal + damping.diag_embed(), weighted @ first.flatten(1)[:, :, None]
    )
    move = solved[:, :4, 0] / solved[:, 4].clamp(min=0.2)
    placement = placement + move.clamp(-0.1, 0.1)
    limits = placement.new_tensor([[0.75, -0.35, 0.75, -0.35], [1.34, 0.35, 1.34, 0.35]])
    return placement.clamp(limits[0], limits[1])


def _likeness(first: Tensor, placed: Tensor, inside: Tensor) -> Tensor:
    """Return the correlation ``(P,)`` of images where they overlap, at half their resolution: a moved one has lost details."""
    ours, theirs, inside = (
        avg_pool2d(first, 2),
        avg_pool2d(placed, 2),
        (avg_pool2d(inside, 2) > 0.99).float(),
    )
    count = inside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    ours = (ours - (ours * inside).sum(dim=(1, 2), keepdim=True) / count) * inside
    theirs = (theirs - (theirs * inside).sum(dim=(1, 2), keepdim=True) / count) * inside
    return (normalize(ours.flatten(1), dim=1) * normalize(theirs.flatten(1), dim=1)).sum(dim=1)


def _placed(images: Tensor, placement: Tensor) -> tuple[Tensor, Tensor]:
    """Return images as seen through their placements, and 1 where there is something to see, both ``(P, S, S)``."""
    side = images.shape[-1]
    rows, columns = _axes(placement, side)
    u = _positions(side)
    # Up to half a pixel beyond the last centre the image goes on.
    is_inside = [
        (placement[:, at, None] * u + placement[:, at + 1, None]).abs() <= 1 for at in (0, 2)
    ]
    return rows @ images @ columns.mT, (is_inside[0][:, :, None] & is_inside[1][:, None]).float()


def _axes(placement: Tensor, side: int) -> tuple[Tensor, Tensor]:
    return (
        _axis(placement[:, 0], placement[:, 1], side),
        _axis(placement[:, 2], placement[:, 3], side),
    )


def _axis(scale: Tensor, shift: Tensor, side: int) -> Tensor:
    """Return matrices ``(P, S, S)`` that sample a line of pixels at a placement, by cubic interpolation."""
    at = ((scale[:, None] * _positions(side) + shift[:, None] + 1) * side - 1) / 2
    d = (at.clamp(0, side - 1)[:, :, None] - torch.arange(side)).abs()
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = near.where(d < 1, far * (d < 2))
    return weights / weights.sum(dim=2, keepdim=True)


def _positions(side: int) -> Tensor:
    """Return where the centres of pixels lie, from -1 to 1."""
    return (2 * torch.arange(side) + 1) / side - 1


def _unit(images: Tensor) -> Tensor:
    """Return images as vectors of mean 0 and length 1."""
    flat = images.flatten(1)
    return normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _joined(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that pairs join, in order of their first members."""
    parent: dict[int, int] = {}

    def root(place: int) -> int:
        while (above := parent.setdefault(place, place)) != place:
            parent[place] = place = parent[above]
        return place

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place in sorted(parent):
        groups[root(place)].append(place)
    return sorted(groups.values())


def _relations(
    greys: GreyImages, group: list[int], known: dict[tuple[int, int], Relation]
) -> tuple[Relation, ...]:
    """Return how the members of a group relate to its first."""
    first, *others = group
    unknown = torch.tensor([other for other in others if (first, other) not in known])
    if len(unknown):
        pairs = _Pairs(
            first=torch.full((2 * len(unknown),), first),
            second=unknown.repeat(2).long(),
            mirrored=torch.arange(2 * len(unknown)) >= len(unknown),
        )
        _, placement = _best_windows(greys, pairs)
        for side in (_MIDDLE, _SIDE):
            likeness, placement = _align(greys, pairs, side, placement)
        better = (likeness[len(unknown) :] > likeness[: len(unknown)]).tolist()
        for place, mirrored in enumerate(better):
            at = place + mirrored * len(unknown)
            known[first, int(unknown[place])] = _relation(
                mirrored, float(likeness[at]), placement[at].tolist()
            )
    return tuple(known[first, other] for other in others)


def _relation(mirrored: bool, likeness: float, placement: list[float]) -> Relation:
    moved = max(abs(value - usual) for value, usual in zip(placement, (1, 0, 1, 0), strict=True))
    kind: Kind = (
        "mirrored" if mirrored else "cropped" if moved > _MOVED else "re-encoded or resized"
    )
    return Relation(kind=kind, likeness=min(1.0, max(0.0, likeness)))
