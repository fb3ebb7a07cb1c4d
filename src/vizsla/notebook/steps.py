"""The transforms of loaders in, the text that a summary or ``dls.after_batch`` shows of them out.

One line for each step: its name, then what it was given. What vizsla does in one go, such as all geometry in one
interpolation, is one step with its members below one another.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from vizsla.augment.pixels import Brightness, Contrast, Hue, Normalize, RandomErasing, Saturation
from vizsla.augment.policy import (
    ComposedColour,
    ComposedGeometry,
    Dihedral,
    Flip,
    RandomResizedCropGPU,
    Rotate,
    Warp,
    Zoom,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.augment.merge import AugmentationPolicy
    from vizsla.augment.policy import BatchTransform
    from vizsla.data.images.item_transforms import ItemPipeline

_ORDER = (
    (Flip, Dihedral, Warp, Rotate, Zoom, ComposedGeometry),
    (RandomResizedCropGPU,),
    (Brightness, Contrast, Saturation, ComposedColour),
    (Hue,),
    (Normalize,),
    (RandomErasing,),
)
"""The order in which they work, whatever the order in which they were given."""

_DECIDED_BY_FIRST = ("size", "mode", "pad_mode", "align_corners", "batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a pipeline, as people see it.

    Attributes:
        name: Of the step, or of the first of its members.
        settings: What it was given.
        members: What else happens in the same step: names and settings.
        transforms: The batch transforms that it stands for; none for steps that every picture goes through.
    """

    name: str
    settings: dict[str, Any]
    members: tuple[tuple[str, dict[str, Any]], ...] = ()
    transforms: tuple[BatchTransform, ...] = ()

    def __str__(self) -> str:
        lines = [_line(self.name, self.settings)]
        lines += [f"    + {_line(name, settings)}" for name, settings in self.members]
        return "\n".join(lines) + ("\n" if self.settings or self.members else "")


@dataclass(frozen=True, slots=True, repr=False)
class Steps:
    """The steps of one stage, in order; prints as ``Pipeline: A -> B``.

    Attributes:
        fs: The steps.
    """

    fs: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        return "Pipeline: " + " -> ".join(str(step) for step in self.fs)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.fs)


def item_steps(items: ItemPipeline) -> Steps:
    """Return what is done to each picture before it becomes part of a batch."""
    own = [step_of_function(function) for function in items.before]
    if items.sizing is not None:
        own.append(Step(name=type(items.sizing).__name__, settings=settings_of(items.sizing)))
    own += [step_of_function(function) for function in items.after]
    return Steps((*own, Step(name="ToTensor", settings={})))


def batch_steps(policy: AugmentationPolicy) -> Steps:
    """Return what is done to a training batch; validation keeps the middle and the size, and nothing random."""
    steps = [Step(name="IntToFloatTensor", settings={"div": 255.0})]
    for kinds in _ORDER:
        transforms = [one for one in transforms_of(policy) if type(one) in kinds]
        if transforms:
            steps.append(_merged(transforms))
    return Steps(tuple(steps))


def transforms_of(policy: AugmentationPolicy) -> tuple[BatchTransform, ...]:
    """Return the transforms of a policy, in the order in which they work."""
    singles = (policy.crop, *policy.colours, *policy.hues, policy.normalize, policy.erasing)
    members = (*policy.matrices, *policy.warps, *(one for one in singles if one is not None))
    rank = {kind: (place, k) for place, kinds in enumerate(_ORDER) for k, kind in enumerate(kinds)}
    return tuple(sorted(members, key=lambda one: rank[type(one)]))


def step_of_function(function: Callable[..., object], **settings: object) -> Step:
    """Return the step that a function of the user's own is, with what it was given.

    Args:
        function: Any function or object that can be called.
        **settings: Shown after its name.
    """
    name = getattr(function, "__name__", None) or type(function).__name__
    return Step(name=name, settings=dict(settings))


def settings_of(transform: object) -> dict[str, Any]:
    """Return the fields of a dataclass, in the order in which they are declared."""
    if not is_dataclass(transform):
        return {}
    return {field.name: getattr(transform, field.name) for field in fields(transform) if field.repr}


def _merged(transforms: Sequence[BatchTransform]) -> Step:
    first, *others = transforms
    return Step(
        name=type(first).__name__,
        settings=_drawn(settings_of(first)),
        members=tuple((type(one).__name__, _own(settings_of(one))) for one in others),
        transforms=tuple(transforms),
    )


def _drawn(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without the draws that were left to chance."""
    return {
        name: value
        for name, value in settings.items()
        if not (name.startswith("draw") and value is None)
    }


def _own(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a member without those that the first of a merged step decides for all."""
    return {
        name: value for name, value in _drawn(settings).items() if name not in _DECIDED_BY_FIRST
    }


def _line(name: str, settings: dict[str, Any]) -> str:
    return f"{name} -- {settings}" if settings else name
