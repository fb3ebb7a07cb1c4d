"""Near duplicates: what is made from one photograph is one group, what only looks like it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from vizsla import ConfigError, OutputError
from vizsla.bench import made_up_photograph
from vizsla.data.images import LEAST_NEAR_LIKENESS, GreyImages, find_near_duplicates

SIZE = (120, 160)


def photographs(folder: Path, number: int) -> list[Path]:
    """Write images of different content."""
    paths = [folder / f"{seed:02}.png" for seed in range(number)]
    for seed, path in enumerate(paths):
        made_up_photograph(seed, size=SIZE).save(path)
    return paths


def test_each_kind_of_near_duplicate_is_found_and_named(tmp_path: Path, table_of):
    paths = photographs(tmp_path, 33)
    height, width = SIZE

    def crop(image: Image.Image, *, left: float, top: float, kept: float) -> Image.Image:
        x, y = round(left * width), round(top * height)
        return image.crop((x, y, x + round(kept * width), y + round(kept * height)))

    made = {
        "saved.jpg": (0, lambda image: image, "re-encoded or resized"),
        "small.jpg": (1, lambda image: image.resize((100, 75)), "re-encoded or resized"),
        "light.jpg": (2, lambda image: ImageEnhance.Brightness(image).enhance(1.1), "re-encoded or resized"),
        "corner.jpg": (3, lambda image: crop(image, left=0.1, top=0.1, kept=0.9), "cropped"),
        "middle.jpg": (4, lambda image: crop(image, left=0.03, top=0.02, kept=0.95), "cropped"),
        "mirror.jpg": (5, ImageOps.mirror, "mirrored"),
        "both.jpg": (6, lambda image: crop(ImageOps.mirror(image), left=0, top=0.05, kept=0.93).resize((110, 90)), "mirrored"),
        "again.jpg": (6, lambda image: image, "re-encoded or resized"),
    }  # fmt: skip
    expected: dict[int, dict[int, str]] = {}
    for name, (source, change, kind) in made.items():
        expected.setdefault(source, {})[len(paths)] = kind
        paths.append(tmp_path / name)
        change(Image.open(paths[source])).save(paths[-1], quality=50)
    table = table_of(paths)
    groups = find_near_duplicates(table, torch.arange(len(paths)))
    found = {
        first: dict(zip(others, (relation.kind for relation in group.relations), strict=True))
        for group in groups
        for first, *others in [group.rows]
    }
    assert found == expected
    assert all(
        LEAST_NEAR_LIKENESS <= relation.likeness <= 1
        for group in groups
        for relation in group.relations
    )


def test_images_that_look_alike_but_for_details_are_not_near_duplicates(tmp_path: Path, table_of):
    paths = photographs(tmp_path, 33)
    scene = Image.open(paths[0])
    for number, path in enumerate(paths):
        Image.blend(scene, made_up_photograph(100 + number, size=SIZE), 0.15).save(path)
    assert find_near_duplicates(table_of(paths), torch.arange(33)) == ()
    with Image.open(paths[3]) as image:  # A copy still stands out.
        image.resize((130, 98)).save(paths[7].with_suffix(".jpg"), quality=80)
    paths[7] = paths[7].with_suffix(".jpg")
    assert [each.rows for each in find_near_duplicates(table_of(paths), torch.arange(33))] == [(3, 7)]  # fmt: skip


def test_flat_and_unreadable_images_are_in_no_group(tmp_path: Path, table_of):
    paths = [*photographs(tmp_path, 2), *(tmp_path / f"{number}.jpg" for number in range(4))]
    for path in paths[2:4]:
        path.write_bytes(b"no image")
    for path in paths[4:]:
        Image.new("RGB", SIZE, (90, 90, 90)).save(path)
    table = table_of(paths)
    read: list[int] = []
    assert find_near_duplicates(table, torch.arange(6), on_progress=read.append) == ()
    assert read == [1, 2, 3, 4, 5, 6]
    assert find_near_duplicates(table, torch.arange(0)) == ()
    with Image.open(paths[0]) as image:
        image.crop((0, 0, 150, 112)).save(paths[2], quality=90)
    assert [group.rows for group in find_near_duplicates(table, torch.tensor([2, 5, 0]))] == [
        (0, 2)
    ]


def test_features_propose_pairs_and_have_a_row_for_each_image(tmp_path: Path, table_of):
    paths = photographs(tmp_path, 66)
    with Image.open(paths[0]) as image:
        image.crop((16, 12, 160, 120)).save(tmp_path / "corner.png")
    table = table_of([*paths, tmp_path / "corner.png"])
    rows = torch.arange(len(table.paths))
    features = torch.randn(len(rows), 80, generator=torch.Generator().manual_seed(0))
    for given in (None, features):
        (group,) = find_near_duplicates(table, rows, given)
        assert (group.rows, group.relations[0].kind) == ((0, 66), "cropped")
    with pytest.raises(ConfigError, match=r"\(67, D\).*\(3, 8\)"):
        find_near_duplicates(table, rows, torch.zeros(3, 8))


def test_images_that_were_read_otherwise_are_not_read_again(tmp_path: Path, table_of):
    paths = photographs(tmp_path, 3)
    with GreyImages(4) as greys:
        for place, path in ((3, paths[0]), (0, paths[1]), (1, paths[0])):
            with Image.open(path) as image:
                greys.put(place, image)
        table = table_of([tmp_path / f"{number}.gone" for number in range(4)])
        chosen = greys.of(torch.tensor([3, 0, 1]))
        (group,) = find_near_duplicates(table, torch.tensor([3, 0, 1]), greys=chosen)
        assert group.rows == (1, 3)
        with pytest.raises(ConfigError, match=r"2 rows.*3"):
            find_near_duplicates(table, torch.arange(2), greys=chosen)


def test_without_room_for_the_pixels_the_folder_is_named(
    tmp_path: Path, table_of, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match="gone"):
        find_near_duplicates(table_of([tmp_path / "0.png"]), torch.arange(1))
