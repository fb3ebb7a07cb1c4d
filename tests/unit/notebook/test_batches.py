"""What loaders print and show is what training reads, as tensors that print their kind; training itself reads plain ones."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from vizsla import (
    CategoryBlock,
    CategoryMap,
    ColReader,
    ConfigError,
    DataBlock,
    DataError,
    DataLoaders,
    ImageBlock,
    ImageDataLoaders,
    LabelError,
    MultiCategoryBlock,
    PictureError,
    PILImage,
    RegexLabeller,
    RegressionBlock,
    Resize,
    Rotate,
    TableError,
    TensorCategory,
    TensorImage,
    TensorMultiCategory,
    parent_label,
    vision_learner,
)
from vizsla.lists import L
from vizsla.notebook import Inf

BREEDS = ["Bengal", "Birman", "beagle", "great_pyrenees"]
VALID_LABELS = "TensorCategory([0, 2, 3, 3])"


def shown_titles() -> list[str]:
    return [axes.get_title() for axes in plt.gcf().axes if axes.get_images()]


def test_a_batch_prints_its_kind_and_training_reads_plain_tensors(dls: DataLoaders):
    images, labels = dls.valid.one_batch()
    assert isinstance(images, TensorImage)
    assert isinstance(labels, TensorCategory)
    assert repr(labels) == VALID_LABELS
    assert (images.shape, images.dtype) == ((4, 3, 24, 24), torch.float32)
    batch = next(iter(dls.train.batches()))
    assert type(batch.images) is type(batch.targets) is Tensor
    (only,) = dls.valid
    assert repr(only[1]) == VALID_LABELS


def test_each_look_at_training_is_another_batch(dls: DataLoaders):
    first, second = dls.one_batch(), dls.one_batch()
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], dls.one_batch(epoch=0)[0])


def test_items_print_their_size_and_label(dls: DataLoaders):
    first = "(PILImage mode=RGB size=40x60, TensorCategory(0))"
    assert repr(dls.train_ds[0]) == first
    assert repr(dls.train_ds).startswith(f"(#16) [{first},(")
    assert dls.train_ds[0][0].shape == (60, 40)
    assert (len(dls.valid_ds), len(dls.train_ds[:3])) == (4, 3)
    assert dls.train_ds.items[0].name == "Bengal_2.jpg"
    with pytest.raises(IndexError):
        dls.valid_ds[4]


def test_the_vocabulary_is_a_list_that_knows_numbers(dls: DataLoaders):
    assert repr(dls.vocab) == repr(BREEDS)
    assert dls.vocab == BREEDS
    assert dls.vocab.o2i["beagle"] == 2
    assert dls.vocab[-1] == "great_pyrenees"
    assert (dls.c, dls.n, dls.train.n, dls.valid.n, dls.n_inp) == (4, 16, 16, 4, 1)
    assert repr(dls.loss_func) == "FlattenedLoss of CrossEntropyLoss()"


def test_a_category_map_orders_classes():
    ordered = pd.Categorical(["x"], categories=["y", "x"])
    cases: tuple[tuple[Any, dict[str, bool], list[str]], ...] = (
        (["b", "a", "B", "a"], {}, ["B", "a", "b"]),
        (["b", "a", None], {"add_na": True}, ["#na#", "a", "b"]),
        (["b", "a"], {"sort": False}, ["b", "a"]),
        (ordered, {}, ["y", "x"]),
        (ordered, {"strict": True}, ["x"]),
    )
    for labels, options, expected in cases:
        vocab = CategoryMap(labels, **options)
        assert vocab == expected
        assert [vocab.o2i[name] for name in expected] == list(range(len(expected)))


def test_stages_print_their_steps(dls: DataLoaders):
    assert repr(dls.after_item).startswith("Pipeline: Resize -- {'size': (36, 36)")
    assert repr(dls.after_item).endswith("-> ToTensor")
    assert repr(dls.before_batch) == "Pipeline: "
    names = [step.name for step in dls.after_batch.fs]
    assert names == ["IntToFloatTensor", "Flip", "RandomResizedCropGPU", "Brightness"]


def test_positions_can_be_chosen(dls: DataLoaders):
    assert sorted(dls.train.get_idxs()) == list(range(16))
    assert list(dls.valid.get_idxs()) == [0, 1, 2, 3]
    dls.train.get_idxs = lambda: Inf.ones
    images, labels = dls.train.one_batch()
    assert labels.tolist() == [int(dls.train_ds[1][1])] * 4
    assert not torch.equal(images[0], images[1])  # each its own augmentation
    rows = [batch.rows.tolist() for batch in dls.train.batches()]
    assert rows == [[int(dls.train.rows[1])] * 4] * 4
    dls.valid.get_idxs = lambda: [7]
    with pytest.raises(ConfigError, match="Received: 7"):
        dls.valid.one_batch()


def test_show_batch_draws_images_with_labels(dls: DataLoaders):
    dls.show_batch(nrows=1, ncols=3)
    titles = shown_titles()
    assert len(titles) == 3
    assert set(titles) <= set(BREEDS)
    assert plt.gcf().get_size_inches().tolist() == [9.0, 3.0]
    (pixels, *_) = [image.get_array() for image in plt.gcf().axes[0].get_images()]
    assert pixels is not None
    assert pixels.shape == (24, 24, 3)
    dls.show_batch(dls.valid.one_batch(), max_n=24, figsize=(8, 8))
    assert shown_titles() == ["Bengal", "beagle", "great_pyrenees", "great_pyrenees"]
    assert plt.gcf().get_size_inches().tolist() == [8.0, 8.0]
    for loaders in (dls, dls.train):  # the arguments have an order
        loaders.show_batch(None, 9, 1, 2, (4, 2))
        assert len(shown_titles()) == 2
        assert plt.gcf().get_size_inches().tolist() == [4.0, 2.0]


def test_one_image_can_be_shown_many_times(dls: DataLoaders):
    shown = dls.show_batch(max_n=4, unique=True, show=False)
    assert shown is not None
    assert len({label for _, label in shown}) == 1
    assert len({image.numpy().tobytes() for image, _ in shown}) == 4
    assert plt.get_fignums() == []


def test_decoding_gives_bytes_and_words(dls: DataLoaders):
    batch = dls.valid.one_batch()
    decoded = dls.decode_batch(batch, max_n=2)
    assert isinstance(decoded, L)
    assert [label for _, label in decoded] == ["Bengal", "beagle"]
    assert decoded[0][0].dtype == torch.uint8
    assert torch.equal(decoded[0][0], (batch[0][0] * 255).to(torch.uint8))


def test_other_images_come_without_labels_or_with_them(dls: DataLoaders, breeds: Path):
    files = sorted(breeds.glob("*_1.jpg"))
    other = dls.test_dl(files)
    assert len(other.one_batch()) == 1
    assert other.dataset.items == files
    other.show_batch()
    assert shown_titles() == [""] * 4
    _, labels = dls.test_dl(files[::-1], with_labels=True).one_batch()
    assert repr(labels) == "TensorCategory([3, 2, 1, 0])"


def test_missing_labels_are_named(dls: DataLoaders, breeds: Path, make_image: Callable[..., Path]):
    files = [make_image("mouse_1.jpg"), make_image("nothing.jpg")]
    with pytest.raises(LabelError, match=r"2 of 2 .*\n.*'mouse'\n.*no label in"):
        dls.test_dl(files, with_labels=True)


def test_loaders_of_every_factory_label_other_images_by_their_own_rule(
    breeds: Path, tmp_path: Path
):
    files = sorted(breeds.iterdir())
    names = [path.name.rsplit("_", 1)[0] for path in files]
    other = tmp_path / "elsewhere" / "beagle" / "beagle_9.jpg"
    for path in (other, *(tmp_path / "data" / path.stem[:-2] / path.name for path in files)):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[0], path)
    frame = pd.DataFrame({"file": [path.stem for path in files], "breed": names})
    frame["all"] = frame["breed"].map("{} | pet".format)
    frame["dog"], frame["pet"], frame["age"] = [0, 1] * 10, 1, 0.5
    frame.assign(breed=" " + frame["breed"]).to_csv(tmp_path / "labels.csv", index=False)
    options: Any = {"seed": 1, "item_tfms": Resize(24), "bs": 4, "num_workers": 0}
    of_table: Any = {"folder": breeds, "suff": ".jpg", **options}
    several: Any = {"label_col": ["dog", "pet"], "y_block": MultiCategoryBlock(encoded=True)}
    make = ImageDataLoaders
    expression = r"([a-zA-Z_]+)_\d+.jpg$"
    rows, hot = frame.iloc[[0, 19]], [[1.0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    cases: list[tuple[DataLoaders, Any, list[Any]]] = [
        (make.from_folder(tmp_path / "data", valid_pct=0.2, **options), [other], [2]),
        (make.from_path_re(breeds, files, expression, **options), [other, str(files[0])], [2, 0]),
        (make.from_name_func(breeds, files, lambda name: name[:-6], **options), [other], [2]),
        (make.from_lists(breeds, files, names, **options), [(other, "beagle"), "Bengal_1.jpg"], [2, 0]),
        (make.from_df(frame, **of_table), rows, [0, 3]),
        (make.from_df(frame, **of_table), [files[19], {"file": "x", "breed": "beagle"}], [3, 2]),
        (make.from_csv(tmp_path, "labels.csv", **of_table), pd.read_csv(tmp_path / "labels.csv"), [0]),
        (make.from_df(frame, label_col="all", label_delim="|", **of_table), rows, hot),
        (make.from_df(frame, **several, **of_table), rows, [[0, 1], [1, 1]]),
        (make.from_df(frame, label_col="age", y_block=RegressionBlock, **of_table), rows, [[0.5]] * 2),
    ]  # fmt: skip
    for loaders, items, expected in cases:
        found = loaders.test_dl(items, with_labels=True).table.targets
        assert found[: len(expected)].tolist() == expected
    by_folder, of_files = cases[0][0], cases[3][0]
    for loaders, items, error in (
        (by_folder, [files[0]], LabelError),
        (of_files, [other], LabelError),
        (of_files, rows, ConfigError),
    ):
        with pytest.raises(error):
            loaders.test_dl(items, with_labels=True)


def test_paths_are_items_whatever_get_x_is_and_rows_whatever_made_the_loaders(
    dls: DataLoaders, breeds: Path
):
    files = sorted(breeds.iterdir())
    frame: Any = pd.DataFrame(
        {"id": [path.stem for path in files], "file": [path.name for path in files]}
    )
    frame["breed"] = frame["id"].str[:-2]

    def get_x(row: Any) -> Path:
        return breeds / row["file"]

    for image_of in (
        get_x,
        lambda row: breeds / f"{row['id']}.jpg",
        lambda row: breeds / f"{row.iloc[0]}.jpg" if hasattr(row, "iloc") else breeds / f"{row[0]}",
        ColReader("file", pref=breeds),
        ColReader(1, pref=breeds),
    ):
        described = DataBlock(get_x=image_of, get_y=ColReader("breed"), item_tfms=Resize(24))
        loaders = described.dataloaders(frame, breeds, bs=4, num_workers=0)
        for items in (files[:2], [str(files[0]), files[1].name], frame[:2]):
            assert loaders.test_dl(items).items == files[:2]
    assert dls.test_dl(frame[:2]).items == files[:2]
    wrong: tuple[tuple[DataLoaders, Any], ...] = (
        (dls, frame[["breed"]]),
        (loaders, frame[["breed"]]),
        *((dls, nothing) for nothing in ([3], [None], None, 5)),
    )
    for given, items in wrong:
        with pytest.raises((ConfigError, TableError)):
            given.test_dl(items)  # pyright: ignore[reportArgumentType]


def test_images_in_memory_are_files_as_long_as_the_loader(dls: DataLoaders, breeds: Path):
    file = breeds / "Bengal_1.jpg"
    image = PILImage.create(file)
    given = [
        image,
        np.asarray(image),
        torch.from_numpy(np.array(image)).permute(2, 0, 1),
        file.read_bytes(),
        file,
    ]
    loader = dls.test_dl(given, bs=2)
    assert [len(batch[0]) for batch in loader] == [2, 2, 1]
    images = torch.cat([batch[0] for batch in loader])
    assert torch.equal(images, images[:1].expand_as(images))
    folder = loader.items[0].parent
    assert len(list(folder.iterdir())) == 4
    del loader
    gc.collect()
    assert not folder.exists()
    with pytest.raises(PictureError):
        dls.test_dl([np.zeros((2, 2, 7))])


def test_options_of_a_loader_of_other_images(dls: DataLoaders, breeds: Path):
    files = sorted(breeds.iterdir())[:5]
    loader = dls.test_dl(
        files, bs=2, num_workers=0, drop_last=True, shuffle=False, device="cpu", rm_type_tfms=1
    )
    assert (len(loader), loader.bs, loader.n) == (2, 2, 5)
    wrongs: tuple[dict[str, Any], ...] = ({"shuffle": True}, {"bs": 0}, {"bs": "x"})
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            dls.test_dl(files, **wrong)


def test_several_labels_print_their_kind(breeds: Path):
    several = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock),
        get_y=lambda path: [path.stem.split("_")[0], "pet"],
        item_tfms=Resize(24),
    )
    loaders = several.dataloaders(sorted(breeds.iterdir()), bs=4, num_workers=0)
    _, labels = loaders.one_batch()
    assert isinstance(labels, TensorMultiCategory)
    assert repr(labels).startswith("TensorMultiCategory([[")
    shown = loaders.show_batch(max_n=1, show=False)
    assert shown is not None
    assert shown[0][1].endswith(";pet")
    made = loaders.test_dl([breeds / "Bengal_1.jpg"], with_labels=True).one_batch()[1]
    assert made.tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0]]


def test_rows_of_a_frame_are_items(breeds: Path):
    frame = pd.DataFrame({"file": sorted(path.name for path in breeds.iterdir())})
    frame["breed"] = frame["file"].str.replace(r"_\d+.jpg", "", regex=True)
    described = DataBlock(
        get_x=ColReader("file", pref=breeds), get_y=ColReader("breed"), item_tfms=Resize(24)
    )
    loaders = described.dataloaders(frame, bs=4, num_workers=0)
    assert loaders.vocab == BREEDS
    _, labels = loaders.test_dl(frame.iloc[[0, 5, 10, 15]], with_labels=True).one_batch()
    assert labels.tolist() == [0, 1, 2, 3]


def test_loaders_can_be_moved_and_emptied(dls: DataLoaders):
    assert dls.cpu() is dls
    empty = dls.new_empty()
    assert (len(empty.train), len(empty.valid), empty.n) == (0, 0, 0)
    assert empty.vocab == BREEDS
    assert repr(empty.after_batch) == repr(dls.after_batch)
    assert dls.n == 16
    with pytest.raises(DataError, match="no images"):
        empty.one_batch()
    assert dls.to("meta").train.device.type == "meta"


def test_transforms_can_be_added(dls: DataLoaders):
    assert dls.add_tfms([np.fliplr], "after_item") is dls
    assert [step.name for step in dls.after_item.fs] == ["Resize", "fliplr", "ToTensor"]
    before = dls.valid.one_batch()[0]
    dls.add_tfms([Rotate(max_deg=90, p=1)], "after_batch", loaders=[0])
    assert "Rotate -- {'max_deg': 90, 'p': 1}" in repr(dls.train.after_batch)
    assert "90" not in repr(dls.valid.after_batch)
    assert torch.equal(before, dls.valid.one_batch()[0])
    with pytest.raises(ConfigError, match="after_iter"):
        dls.add_tfms([], "after_iter")


def test_datasets_hold_both_sets(pets: DataBlock, breeds: Path):
    sets = pets.datasets(breeds)
    assert (len(sets), len(sets.train), len(sets.valid), sets.c) == (20, 16, 4, 4)
    for first, part in ((sets.splits[0][0], sets.train), (sets.splits[1][0], sets.valid)):
        assert repr(sets[first]) == repr(part[0])
    assert sets.vocab == BREEDS


def test_data_for_looking_at_warns_and_is_not_trained_on(breeds: Path):
    # One image a hundred times, of one class: no data to train on, but to show what augmentation does.
    demo = DataBlock(
        blocks=(ImageBlock(), CategoryBlock()), get_y=parent_label, item_tfms=Resize(24)
    )
    one = [breeds / "Bengal_1.jpg"] * 100
    with pytest.warns(UserWarning, match="2 problems") as warned:
        loaders = demo.dataloaders(one, bs=8, num_workers=0, device="cpu")
    assert len(warned) == 1
    assert loaders.valid.one_batch()[0].shape == (8, 3, 24, 24)
    learner = vision_learner(loaders, "efficientnet_lite0", quiet=True)
    with pytest.raises(DataError, match="2 problems"):
        learner.fit(1)
    with pytest.raises(DataError, match="Bengal_9"):
        demo.dataloaders([breeds / "Bengal_9.jpg"] * 100, bs=8)


def test_loaders_of_a_factory_can_be_looked_at(breeds: Path):
    options: Any = {"seed": 42, "item_tfms": Resize(24), "bs": 4}
    label = RegexLabeller(r"(.+)_\d+.jpg$")
    paths = sorted(breeds.iterdir())
    loaders = ImageDataLoaders.from_name_func(breeds, paths, label, **options)
    assert isinstance(loaders.one_batch()[0], TensorImage)
    assert loaders.vocab == BREEDS
    with pytest.raises(TypeError, match="valid_pc"):
        ImageDataLoaders.from_name_func(breeds, [], str, valid_pc=0.2)  # pyright: ignore[reportCallIssue]
