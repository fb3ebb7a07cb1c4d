"""Lists of item transforms: who sees what in which order, and what is said of a function that fails."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vizsla.data.images.item_transforms import ItemPipeline, function_name, item_pipeline
from vizsla.data.images.sizing import CropPad, RandomResizedCrop, Resize
from vizsla.errors import ConfigError


def inverted(pixels: np.ndarray) -> np.ndarray:
    return 255 - pixels


def noise(height: int = 30, width: int = 40) -> Image.Image:
    values = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


class Recorder:
    """A function that notes the shapes that it is given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.shapes.append(pixels.shape)
        return pixels

    def __repr__(self) -> str:
        return "Recorder()"


def test_functions_before_and_after_the_resize_are_told_apart():
    first, last = Recorder(), Recorder()
    pipeline = item_pipeline([first, Resize(24), last, inverted])
    assert pipeline == ItemPipeline(before=(first,), sizing=Resize(24), after=(last, inverted))
    assert pipeline.functions == (first, last, inverted)


def test_a_single_transform_none_and_an_empty_list_are_lists_too():
    assert item_pipeline(Resize(24)) == item_pipeline([Resize(24)]) == item_pipeline((Resize(24),))
    assert item_pipeline(None) == item_pipeline([]) == item_pipeline(()) == ItemPipeline()
    assert item_pipeline(inverted) == ItemPipeline(after=(inverted,))
    assert item_pipeline(item_pipeline(Resize(24))) == item_pipeline(Resize(24))


@pytest.mark.parametrize(
    "wrong",
    [460, "Resize", [Resize(10), Resize(20)], [Resize(10), CropPad(5)], Resize, [inverted, 3]],
)
def test_what_cannot_work_is_refused(wrong: Any):
    with pytest.raises(ConfigError, match="item_tfms is one Resize, as in Resize"):
        item_pipeline(wrong)


def test_before_sees_the_decoded_picture_and_after_the_resized_one():
    first, last = Recorder(), Recorder()
    pipeline = item_pipeline([first, Resize(24), last])
    kept = pipeline.kept(noise(), training=False, name="a")
    pipeline.finished(kept, name="a")
    assert (first.shapes, last.shapes) == ([(30, 40, 3)], [(24, 24, 3)])


def test_with_a_function_before_it_nothing_is_decoded_at_a_smaller_scale():
    assert item_pipeline(Resize(24)).cover(training=True) == (24, 24)
    assert item_pipeline([Resize(24), inverted]).cover(training=True) == (24, 24)
    assert item_pipeline([inverted, Resize(24)]).cover(training=True) is None
    assert item_pipeline(RandomResizedCrop(24, min_scale=0.25)).cover(training=True) == (48, 48)
    assert item_pipeline(None).cover(training=False) is None


def test_the_training_view_goes_through_the_functions_after_the_resize():
    pipeline = item_pipeline([Resize(24), inverted])
    kept = pipeline.kept(noise(), training=True, name="a")
    view = pipeline.training_view(kept, draws=[0.0], name="a")
    assert kept.shape == (24, 32, 3)
    assert np.array_equal(view, 255 - kept[:, :24])


def test_a_function_may_write_into_what_it_is_given():
    def blackened(pixels: np.ndarray) -> np.ndarray:
        pixels[:] = 0
        return pixels

    picture = noise()
    for transforms in ([blackened, Resize(24)], [Resize(24), blackened]):
        pipeline = item_pipeline(transforms)
        kept = pipeline.kept(picture, training=False, name="a")
        before = kept.copy()
        assert not pipeline.finished(kept, name="a").any()
        assert np.array_equal(kept, before)
    assert np.asarray(picture).any()


def test_a_function_may_change_the_size_and_return_a_view():
    pipeline = item_pipeline([lambda pixels: pixels[::-1, :20], Resize((30, 20))])
    kept = pipeline.kept(noise(30, 40), training=False, name="a")
    assert np.array_equal(kept, np.asarray(noise(30, 40))[::-1, :20])


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_function_that_raises_is_named_with_the_picture(place: str):
    def careless(pixels: np.ndarray) -> np.ndarray:
        raise IndexError("no such corner")

    transforms = [careless, Resize(24)] if place == "before" else [Resize(24), careless]
    pipeline = item_pipeline(transforms)
    with pytest.raises(
        ConfigError, match=r"careless failed on the picture pets/a\.jpg: IndexError: no such"
    ) as caught:
        pipeline.finished(
            pipeline.kept(noise(), training=False, name="pets/a.jpg"), name="pets/a.jpg"
        )
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (None, "NoneType"),
        (np.zeros((4, 4, 3), np.float32), r"float32 of shape \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 of shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 of shape \(0, 4, 3\)"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 of shape \(3, 4, 4\)"),
    ],
)
def test_a_function_that_returns_something_else_is_named_with_it(result: Any, shown: str):
    pipeline = item_pipeline([Resize(24), lambda pixels: result])
    with pytest.raises(
        ConfigError, match=rf"<lambda> must return .* picture a\.jpg it returned: {shown}"
    ):
        pipeline.finished(pipeline.kept(noise(), training=False, name="a.jpg"), name="a.jpg")


def test_functions_without_a_name_are_shown_as_they_print():
    assert function_name(inverted) == "inverted"
    assert function_name(Recorder()) == "Recorder()"
    assert "partial" in function_name(functools.partial(np.roll, shift=1))
