"""Loaders and a network in; the network trained by any schedule, and the record of it, out.

``Trainer`` knows how to run one fit: epochs of the loop, validation, callbacks, the table. Which schedules there are and what a
notebook likes to call is built on it: ``fits.py`` and ``learner.py``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from vizsla.errors import ConfigError, TrainingError
from vizsla.infer.run import Precision, predict_batches
from vizsla.models.groups import freeze_to, norm_parameters, parameter_groups, train_mode
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.cuda_graphs import CapturedForward, is_known
from vizsla.train.display import make_display
from vizsla.train.distributed import (
    as_one,
    check_parts,
    is_main,
    own_part,
    share,
    whole_predictions,
)
from vizsla.train.losses import default_loss
from vizsla.train.optim import Adam, build_optimiser
from vizsla.train.precision import resolve_precision
from vizsla.train.recorder import Recorder
from vizsla.train.run_fit import run_fit
from vizsla.train.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.classifier import Classifier
    from vizsla.models.groups import Group
    from vizsla.train.optim import OptimiserFactory
    from vizsla.train.schedules import Schedule

    MetricFunction = Callable[[Tensor, Tensor], Tensor | float]
    LossFunction = Callable[[Tensor, Tensor], Tensor]
    Splitter = Callable[[nn.Module], Sequence[Sequence[nn.Parameter]]]
    Callbacks = Callback | Iterable[Callback] | None

MOMENTA = (0.95, 0.85, 0.95)
"""Momentum at the start, the peak and the end of a one-cycle."""


class Trainer:
    """Trains a network on loaders and remembers what happened.

    Args:
        dls: Training and validation loaders; never changed.
        model: Trained in place, on the device of the loaders.
        loss_func: Takes outputs ``(B, C)`` and targets; None is the one of the task: cross-entropy for classes.
        opt_func: Makes the optimiser: ``Adam``, ``SGD``, a class of ``torch.optim``, or a name.
        lr: Learning rate where a fit is given none.
        splitter: Splits the model's parameters into groups with rates of their own, earliest layers first; None is early
            body, late body, head.
        cbs: Callbacks of all fits.
        metrics: One function or several, each called with the outputs ``(N, C)`` and targets of the whole validation
            set, so that batches of unequal size cannot bend it.
        path: Folder that ``save`` and ``export`` write below; None is that of the data.
        model_dir: Folder below it for saved weights.
        wd: Weight decay; None is the optimiser's own.
        wd_bn_bias: Decay norms and biases too.
        train_bn: Train norms, and update their statistics, in frozen groups too: fastai's rule, good when the new
            pictures look unlike those of the pretraining. Without it a frozen body stays exactly as it is.
        moms: Momentum at the start, the peak and the end of a one-cycle.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` autocast; ``"auto"`` is one of these two on CUDA, see
            ``resolve_precision``, and fp32 elsewhere.
        accumulate: Batches whose gradients are gathered for one step of the optimiser.
        clip: Largest norm of the gradients; None leaves them.
        compile: Compile the network (``torch.compile``): slow to begin, then faster steps, mostly on CUDA. A text is torch's
            mode: ``"reduce-overhead"`` replays the step from CUDA graphs, which pays for small networks and batches.
        show_table: Print a row per epoch.
        quiet: Print nothing at all.

    Attributes:
        recorder: History of all fits.
        opt: The optimiser; None before the first fit and after freezing.
        epochs_done: Passes over the training pictures so far; each has its own order and augmentation.
        cuda_graphs: Replay forward and backward pass from a CUDA graph, with the same results: None where network and loss
            are made of torch's, torchvision's, timm's and vizsla's parts alone, True also for parts of your own (whose
            Python then runs once), False never. Set it before a fit.

    Raises:
        ConfigError: Model and data have different classes, or a number or word cannot work.
    """

    def __init__(
        self,
        dls: DataLoaders,
        model: nn.Module,
        loss_func: LossFunction | None = None,
        opt_func: OptimiserFactory = Adam,
        lr: float = 0.001,
        splitter: Splitter | None = None,
        cbs: Callbacks = None,
        metrics: MetricFunction | Sequence[MetricFunction] | None = None,
        path: Path | str | None = None,
        model_dir: Path | str = "models",
        wd: float | None = None,
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        moms: tuple[float, float, float] = MOMENTA,
        *,
        precision: Precision | str = "auto",
        accumulate: int = 1,
        clip: float | None = None,
        compile: bool | str = False,  # noqa: A002 (torch's own word)
        show_table: bool = True,
        quiet: bool = False,
    ) -> None:
        _check_classes(model, dls)
        if accumulate < 1 or (clip is not None and not clip > 0):
            raise ConfigError(
                "accumulate is a number of batches, at least 1, and clip a positive norm or None. "
                f"Received: accumulate={accumulate!r}, clip={clip!r}"
            )
        self.dls = dls
        self.model = model.place(dls.device) if hasattr(model, "place") else model.to(dls.device)  # pyright: ignore[reportCallIssue] (a Classifier)
        self.loss_func: LossFunction = (
            default_loss(dls.table.task) if loss_func is None else loss_func
        )
        if isinstance(self.loss_func, nn.Module):
            self.loss_func.to(dls.device)  # its class weights
        self.opt_func = opt_func
        self.lr = lr
        self.cbs = as_callbacks(cbs)
        self.metrics: tuple[MetricFunction, ...] = _as_tuple(metrics)
        self.path = Path(dls.path if path is None else path)
        self.model_dir = Path(model_dir)
        self.wd = wd
        self.wd_bn_bias = wd_bn_bias
        self.train_bn = train_bn
        self.moms = moms
        self.precision: Precision = resolve_precision(
            precision, device=dls.device, model=self.model
        )
        self.accumulate = accumulate
        self.clip = clip
        self.compile = compile
        self.show_table = show_table
        self.display = make_display(quiet=quiet or not is_main())
        self.recorder = Recorder(metric_names=tuple(_name(metric) for metric in self.metrics))
        groups = (splitter or parameter_groups)(self.model)  # pyright: ignore[reportArgumentType] (a model without groups brings a splitter)
        self.groups: tuple[Group, ...] = tuple(tuple(group) for group in groups)
        self.opt: torch.optim.Optimizer | None = None
        self.epochs_done = 0
        self.cuda_graphs: bool | None = None
        self._compiled: nn.Module | None = None
        self._captured: CapturedForward | None = None

    def freeze(self) -> None:
        """Train the head only (with ``train_bn`` the norms of the body too)."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Freeze the parameter groups before position ``n``; the optimiser starts afresh.

        Args:
            n: First group that trains; negative numbers count from the end.
        """
        norms = norm_parameters(self.model) if self.train_bn else ()
        freeze_to(self.groups, n, train_norms=norms)
        self.opt = None

    def create_opt(self, *, wd: float | None = None) -> None:
        """Make a new optimiser over the parameters that train.

        Args:
            wd: Weight decay; None is the trainer's own.
        """
        self.opt = build_optimiser(
            self.model,
            self.groups,
            opt_func=self.opt_func,
            weight_decay=self.wd if wd is None else wd,
            decay_norms_and_biases=self.wd_bn_bias,
        )

    def run(
        self,
        schedule: Schedule,
        *,
        n_epoch: int,
        stage: str,
        cbs: Callbacks = None,
        wd: float | None = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
        measured: bool = True,
    ) -> None:
        """Run one fit.

        Args:
            schedule: Rates of every step of all epochs.
            n_epoch: Passes over the training pictures.
            stage: Name of the fit, for people.
            cbs: Callbacks of this fit, besides those of the trainer.
            wd: Weight decay from now on; None leaves it.
            reset_opt: Begin with a new optimiser instead of going on with the averages of the last fit.
            start_epoch: Epochs before it are taken as done: their steps are left out.
            measured: Validate, print and record. Without, only callbacks see what happens: a trial.

        Raises:
            TrainingError: The loss is not finite, or there is nothing to train on.
            PictureError: A picture cannot be read.
        """
        if wd is not None and wd != self.wd:
            self.wd, reset_opt = wd, True
        if self.opt is None or reset_opt:
            self.create_opt()
        self.check_batches()
        callbacks = sorted(
            [*(self.cbs if measured else ()), *as_callbacks(cbs)], key=lambda each: each.order
        )
        fit = Fit(
            trainer=self,
            stage=stage,
            number=len(self.recorder.fits),
            n_epoch=n_epoch,
            num_batches=len(self.dls.train),
            schedule=schedule,
            position=self.epochs_done,
            first_step=start_epoch * len(self.dls.train),
        )
        try:
            run_fit(fit, callbacks=callbacks, measured=measured)
        finally:
            if not measured:
                self.epochs_done = fit.position

    def training_mode(self) -> None:
        """Put the model in training mode; with ``train_bn=False`` frozen norms keep their statistics."""
        if self.train_bn:
            self.model.train()
        else:
            train_mode(self.model)

    def predictions(self, ds_idx: int = 1, dl: DataLoader | None = None) -> Predictions:
        """Return what the model says of the training (0) or validation (1) pictures, prepared as in validation.

        Args:
            ds_idx: Which split.
            dl: Another loader.

        Raises:
            ConfigError: ``ds_idx`` is neither.
        """
        dl = self.plain_loader(ds_idx) if dl is None else dl
        alone = share()[1] == 1
        predictions = predict_batches(
            self.model,  # pyright: ignore[reportArgumentType] (any module with logits will do)
            dl.batches() if alone else own_part(dl),
            table=dl.table,
            precision=self.precision,
            forward=self._recorded_forward(),
        )
        return predictions if alone else whole_predictions(predictions, order=dl.rows)

    def plain_loader(self, ds_idx: int) -> DataLoader:
        """Return a loader of the training (0) or validation (1) pictures in order, prepared as in validation.

        Raises:
            ConfigError: ``ds_idx`` is neither.
        """
        if ds_idx not in (0, 1):
            raise ConfigError(
                f"ds_idx is 0 for training or 1 for validation pictures. Received: {ds_idx!r}"
            )
        return self.dls.valid if ds_idx == 1 else self.dls.loader_for(self.dls.train.rows)

    def measure(self, predictions: Predictions) -> list[float]:
        """Return the loss and the metrics; nan where there are no pictures."""
        if not len(predictions.rows):
            return [math.nan] * (1 + len(self.metrics))
        return self.measure_outputs(predictions.logits, predictions.targets)

    def measure_outputs(self, logits: Tensor, targets: Tensor) -> list[float]:
        """Return the loss and the metrics of outputs ``(N, C)`` and targets, both on the CPU."""
        device = logits.device
        if isinstance(self.loss_func, nn.Module):
            device = next(self.loss_func.buffers(), logits).device  # its class weights
        loss = self.loss_func(logits.to(device), targets.to(device))
        return [float(loss), *(float(metric(logits, targets)) for metric in self.metrics)]

    def snapshot(self) -> Snapshot:
        """Return a copy of all that training changes in model and optimiser."""
        return Snapshot.of(self.model, self.opt)

    def restore(self, snapshot: Snapshot) -> None:
        """Put model and optimiser back to where a snapshot was taken."""
        for name, value in self.model.named_parameters():
            value.requires_grad_(snapshot.trainable[name])
        if snapshot.optimiser is None:
            self.opt = None
        elif self.opt is None or not self._optimises_what_trains(self.opt):
            self.create_opt()
        snapshot.restore(self.model, self.opt)

    def _optimises_what_trains(self, optimiser: torch.optim.Optimizer) -> bool:
        moved = {id(value) for group in optimiser.param_groups for value in group["params"]}
        return moved == {id(value) for value in self.model.parameters() if value.requires_grad}

    def check_batches(self) -> None:
        """Raise an error where training cannot begin.

        Raises:
            TrainingError: There are no training pictures, or batch norms would see one value.
        """
        if not len(self.dls.train):
            raise TrainingError("There are no training pictures.")
        check_parts([min(self.dls.train.bs, self.dls.train.n)])
        norms = [part for part in self.model.modules() if isinstance(part, nn.BatchNorm1d)]
        if norms and min(self.dls.train.bs, self.dls.train.n) == 1:
            raise TrainingError(
                "Batches of one picture cannot train the batch norms of the head: the mean of one value is that value. "
                f"Received: bs={self.dls.train.bs} and {self.dls.train.n} training pictures. Take bs=2 or more."
            )

    def forward_pass(self) -> Callable[[Tensor], Tensor]:
        """Return what pictures go through in training: the model, compiled and in step with other processes if need be."""
        if self.compile and self._compiled is None:
            mode = self.compile if isinstance(self.compile, str) else None
            self._compiled = cast("nn.Module", torch.compile(self.model, mode=mode))
        return as_one(self.model if self._compiled is None else self._compiled)

    def uses_graphs(self) -> bool:
        """Whether steps and predictions may be repeated from CUDA graphs, see ``cuda_graphs``."""
        if self.cuda_graphs is False or self.dls.device.type != "cuda":
            return False
        return bool(self.cuda_graphs) or is_known(self.model, self.loss_func)

    def _recorded_forward(self) -> CapturedForward | None:
        """Return what predicts from a graph; None where nothing is recorded."""
        if not self.uses_graphs():
            self._captured = None
            return None
        known = self._captured
        if known is None or known.classifier is not self.model or known.precision != self.precision:
            known = CapturedForward(cast("Classifier", self.model), precision=self.precision)
        known.refresh()
        self._captured = known
        return known


def as_callbacks(cbs: Callbacks) -> list[Callback]:
    """Return callbacks as a new list.

    Raises:
        ConfigError: One of them is none.
    """
    found = [] if cbs is None else [cbs] if isinstance(cbs, Callback) else list(cbs)
    for callback in found:
        if not isinstance(callback, Callback):  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
            raise ConfigError(
                f"Callbacks are objects made of classes that inherit from Callback. Received: {callback!r}"
            )
    return found


def _check_classes(model: nn.Module, dls: DataLoaders) -> None:
    vocab = getattr(model, "vocab", None)
    if vocab is not None and tuple(vocab) != tuple(dls.vocab):
        raise ConfigError(
            f"The model has {len(vocab)} classes {list(vocab[:5])} and the data {len(dls.vocab)} "
            f"{list(dls.vocab[:5])}. Build the model for the classes of the data, in their order."
        )


def _as_tuple(
    metrics: MetricFunction | Sequence[MetricFunction] | None,
) -> tuple[MetricFunction, ...]:
    if metrics is None:
        return ()
    return (metrics,) if callable(metrics) else tuple(metrics)


def _name(metric: MetricFunction) -> str:
    inner = getattr(metric, "func", metric)  # a partial has no name of its own
    return getattr(inner, "__name__", type(inner).__name__)
