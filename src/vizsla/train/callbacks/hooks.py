"""Look into a network: what its layers give, once or while it trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes

    from vizsla.train.callbacks.base import Fit, FitSettings
    from vizsla.types import Batch

_NEAR_ZERO = 0.05
_BINS, _LARGEST = 40, 10.0
"""Of the histogram, as in fastai: activations from 0 to 10."""


class Hook:
    """Stores what a function returns for a layer, its inputs and its output; a context manager that removes itself.

    Args:
        m: The layer.
        hook_func: Called with layer, inputs and output; backward with layer, None and the gradient of the output in a tuple.
        is_forward: Call it on the forward pass; otherwise on the backward pass, with the gradient.
        detach: Take tensors without their history.
        cpu: Move them to the CPU.

    Attributes:
        stored: What the function returned last; None before.
    """

    def __init__(
        self,
        m: nn.Module,
        hook_func: Callable[[nn.Module, Any, Any], Any],
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.stored: Any = None
        self._function, self._detach, self._cpu = hook_func, detach, cpu
        self._handle = m.register_forward_hook(self._keep if is_forward else self._wait)

    def _keep(self, module: nn.Module, given: Any, found: Any) -> None:
        self.stored = self._function(module, self._taken(given), self._taken(found))

    def _wait(self, module: nn.Module, given: Any, found: Tensor) -> None:
        """Wait for the gradient of an output."""
        del given
        if found.requires_grad:
            found.register_hook(lambda gradient: self._keep(module, None, (gradient,)))

    def _taken(self, found: Any) -> Any:
        if isinstance(found, tuple | list):
            return type(found)(self._taken(each) for each in found)
        if not isinstance(found, Tensor):
            return found
        found = found.detach() if self._detach else found
        return found.cpu() if self._cpu else found

    def remove(self) -> None:
        """Stop looking."""
        self._handle.remove()

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Hooks:
    """A ``Hook`` for each of several layers; see there for the arguments.

    Attributes:
        hooks: The hooks.
    """

    def __init__(
        self,
        ms: Iterable[nn.Module],
        hook_func: Callable[[nn.Module, Any, Any], Any],
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.hooks = [Hook(each, hook_func, is_forward, detach, cpu) for each in ms]

    def __getitem__(self, index: int) -> Hook:
        return self.hooks[index]

    def __len__(self) -> int:
        return len(self.hooks)

    @property
    def stored(self) -> list[Any]:
        """What each of them keeps."""
        return [each.stored for each in self.hooks]

    def remove(self) -> None:
        """Stop looking."""
        for each in self.hooks:
            each.remove()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def hook_output(module: nn.Module, detach: bool = True, cpu: bool = False, grad: bool = False) -> Hook:  # fmt: skip
    """Return a ``Hook`` that keeps the output of a layer, or with ``grad`` a tuple with the gradient of its output."""
    return Hook(module, lambda _, __, found: found, not grad, detach, cpu)


def hook_outputs(modules: Iterable[nn.Module], detach: bool = True, cpu: bool = False, grad: bool = False) -> Hooks:  # fmt: skip
    """Return ``Hooks`` that keep the outputs of layers; see ``hook_output``."""
    return Hooks(modules, lambda _, __, found: found, not grad, detach, cpu)


class ActivationStats(Callback):
    """Records mean, standard deviation and share near zero of layer outputs in training, by layer and step.

    Args:
        with_hist: Record histograms too, for ``color_dim``.
        modules: The layers; None is all innermost ones with weights.
        every: Record every this many steps; None is every step.

    Attributes:
        stats: For each recorded step one dictionary for each layer: ``mean``, ``std``, ``near_zero``, ``hist``.
    """

    order = -20

    def __init__(
        self,
        with_hist: bool = False,
        modules: Sequence[nn.Module] | None = None,
        every: int | None = None,
    ) -> None:
        self.with_hist = with_hist
        self.modules = modules
        self.every = every
        self.stats: list[list[dict[str, Tensor]]] = []
        self._hooks: Hooks | None = None
        self._is_step = False

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Take steps operation by operation."""
        del fit
        return replace(settings, eager=True)

    def before_fit(self, fit: Fit) -> None:
        """Clear the records of an earlier fit."""
        self.stats = []
        if self.modules is None:
            parts = fit.trainer.model.modules()
            self.modules = [each for each in parts if any(True for _ in each.parameters(recurse=False))]  # fmt: skip
        self._hooks = Hooks(self.modules, self._measure)

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        """Look at this batch."""
        self._is_step = self.every is None or fit.step % self.every == 0
        return batch

    def after_step(self, fit: Fit) -> None:
        """Keep what was seen."""
        del fit
        if self._is_step and self._hooks is not None:
            self.stats.append(self._hooks.stored)
        self._is_step = False

    def after_fit(self, fit: Fit) -> None:
        """Stop looking."""
        del fit
        if self._hooks is not None:
            self._hooks.remove()

    def _measure(self, module: nn.Module, given: Any, found: Tensor) -> dict[str, Tensor]:
        del module, given
        if not self._is_step:
            return {}
        values = found.float()
        near = (values <= _NEAR_ZERO).float().mean()
        measured = {"mean": values.mean(), "std": values.std(), "near_zero": near}
        return (
            {**measured, "hist": values.histc(_BINS, 0, _LARGEST)} if self.with_hist else measured
        )

    def layer_stats(self, idx: int) -> tuple[list[float], list[float], list[float]]:
        """Return mean, standard deviation and share near zero of one layer at each step.

        Args:
            idx: Position of the layer; negative from the end.

        Raises:
            ConfigError: There is no such layer, or nothing was trained yet.
        """
        found = self._of_layer(idx)
        mean, std, near = ([float(each[name]) for each in found] for name in ("mean", "std", "near_zero"))  # fmt: skip
        return mean, std, near

    def hist(self, idx: int) -> Tensor:
        """Return the logarithms of the histograms of one layer, float32 ``(40, steps)``; see ``layer_stats``."""
        if not self.with_hist:
            raise ConfigError("Histograms were not recorded. Use ActivationStats(with_hist=True).")  # fmt: skip
        return torch.stack([each["hist"] for each in self._of_layer(idx)]).T.log1p().cpu()

    def plot_layer_stats(self, idx: int) -> None:
        """Draw ``layer_stats`` over the steps, side by side."""
        import matplotlib.pyplot as plt

        _, places = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
        titles = ("mean", "std", "% near zero")
        for axes, values, title in zip(places, self.layer_stats(idx), titles, strict=True):
            axes.plot(values)
            axes.set_title(title)
            axes.set_xlabel("steps")

    def color_dim(
        self, idx: int, figsize: tuple[float, float] = (10, 5), ax: Axes | None = None
    ) -> None:
        """Draw the histograms of one layer as columns of an image, one for each step, 0 below.

        Args:
            idx: See ``layer_stats``.
            figsize: (width, height) of the figure in inches.
            ax: Where to draw; None is a new figure.
        """
        import matplotlib.pyplot as plt

        counts = self.hist(idx)
        axes = plt.subplots(figsize=figsize)[1] if ax is None else ax
        axes.imshow(counts.numpy(), origin="lower", aspect="auto")
        axes.axis("off")

    def _of_layer(self, idx: int) -> list[dict[str, Tensor]]:
        if not self.stats:
            raise ConfigError("No activations were recorded yet. Fit first.")
        number = len(self.stats[0])
        if not -number <= idx < number:
            raise ConfigError(f"There are {number} layers with weights, so idx is {-number} to {number - 1}. Received: {idx}")  # fmt: skip
        return [each[idx] for each in self.stats]
