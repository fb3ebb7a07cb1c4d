"""Train a network: its settings, and a fit by each of the usual schedules.

``fit_one_cycle`` and the others make a schedule; ``Trainer.run`` sets the fit up and hands it to the loop (``loop.py``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast, get_args

import torch
from torch import nn

from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.errors import ConfigError, TrainingError
from vizsla.infer.run import NumberFormat, check_own_parts, compute_logits, predict_batches
from vizsla.models.backbones import whole_network
from vizsla.models.classifier import Classifier
from vizsla.models.groups import freeze_to, norm_parameters, parameter_groups, train_mode
from vizsla.models.heads import NoHead
from vizsla.train.callbacks.base import Fit, FitSettings, as_callbacks, has_short_form
from vizsla.train.callbacks.events import EventCaller
from vizsla.train.cuda_graphs import CapturedForward, is_known
from vizsla.train.display import make_display
from vizsla.train.distributed import (
    VERSIONS,
    GradientCompression,
    as_one,
    check_parts,
    check_same_images,
    check_same_settings,
    is_main,
    own_part,
    share,
    whole_predictions,
)
from vizsla.train.loop import run_fit
from vizsla.train.losses import check_weights, loss_for, thresholds_of
from vizsla.train.metrics import as_metrics
from vizsla.train.optim import Adam, build_optimiser
from vizsla.train.rates.schedules import (
    constant,
    cosine_restarts,
    flat_cosine,
    one_cycle,
    rates_per_group,
    whole_number,
)
from vizsla.train.rates.suggestions import DEFAULT_SUGGESTIONS, runs_needed, suggest
from vizsla.train.recorder import FitRecord, Recorder
from vizsla.train.step import make_scaler, resolve_precision
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.groups import Group
    from vizsla.train.callbacks.base import Callback, Callbacks
    from vizsla.train.optim import OptimiserFactory
    from vizsla.train.rates.schedules import Rates, Schedule
    from vizsla.train.rates.suggestions import SuggestedLRs, Suggestion

    MetricFunction = Callable[[Tensor, Tensor], Tensor | float]
    LossFunction = Callable[[Tensor, Tensor], Tensor]
    Splitter = Callable[[nn.Module], Sequence[Sequence[nn.Parameter]]]

MOMENTA = (0.95, 0.85, 0.95)
"""Momentum at the start, the peak and the end of a one-cycle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A copy of all that training changes: weights by name, which of them train, modes of modules, state of the optimiser."""

    weights: dict[str, Tensor]
    trainable: dict[str, bool]
    training: dict[str, bool]
    optimiser: dict[str, Any] | None


class TrainerOptions(TypedDict, total=False):
    """The keyword arguments of a ``Trainer``."""

    loss_func: LossFunction | None
    opt_func: OptimiserFactory
    lr: float
    splitter: Splitter | None
    cbs: Callbacks
    metrics: MetricFunction | Sequence[MetricFunction] | None
    path: Path | str | None
    model_dir: Path | str
    wd: float | None
    wd_bn_bias: bool
    train_bn: bool
    moms: tuple[float, float, float]
    precision: NumberFormat | str
    accumulate: int
    clip: float | None
    compile: bool | str
    sync_batch_norm: bool
    compress_gradients: GradientCompression
    show_table: bool
    quiet: bool


class Trainer:
    """Trains a network on loaders and remembers what happened.

    Every fit raises a ``ConfigError`` before the first step if a number cannot work, and a ``TrainingError`` when the loss is no
    longer finite.

    Args:
        dls: Training and validation loaders; never changed.
        model: Trained in place, on the device of the loaders: a ``Classifier``, or any module from RGB images float32 ``(B, 3, H, W)``
            to outputs ``(B, C)``. Images for a module of your own are 0-1, or as ``Normalize`` in the loaders' transforms says.
        loss_func: Takes outputs ``(B, C)`` and targets; None follows from the task: cross-entropy for classes, weighted where
            the loaders have ``balance="weights"``.
        opt_func: Makes the optimiser: ``Adam``, ``SGD``, a class of ``torch.optim``, or a name.
        lr: Learning rate of fits that are given none.
        splitter: Splits the model's parameters into groups with their own rates, earliest layers first; None is early body,
            late body, head, and one group for a module of your own.
        cbs: Callbacks of all fits.
        metrics: One function or several, each called with the outputs ``(N, C)`` and targets of the whole validation
            set, so that batches of unequal size cannot distort it.
        path: Folder for ``save`` and ``export``; None is that of the data.
        model_dir: Folder below it for saved weights.
        wd: Weight decay; None is the optimiser's own.
        wd_bn_bias: Decay norms and biases too.
        train_bn: Train norms, and update their statistics, in frozen groups too: fastai's rule, good when the new
            images look unlike those of the pretraining. Without it a frozen body stays exactly as it is.
        moms: Momentum at the start, the peak and the end of a one-cycle.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` autocast; ``"auto"`` is one of these two on CUDA, see
            ``resolve_precision``, and fp32 elsewhere.
        accumulate: Batches whose gradients are added up for one step of the optimiser.
        clip: Largest norm of the gradients; None leaves them.
        compile: Compile the network (``torch.compile``): slow to begin, then faster steps, mostly on CUDA. A string is torch's
            mode: ``"reduce-overhead"`` replays the step from CUDA graphs, which pays for small networks and batches.
        sync_batch_norm: Of several processes, let batch norms that train see the whole batch and not each its part: as one
            process would, for a message between all of them in every norm. Not together with ``compile``.
        compress_gradients: Of several processes, how gradients are sent: ``"none"``, ``"fp16"`` or ``"bf16"`` for half the
            traffic, ``"powersgd"`` for far less and only approximately; a run that is resumed then differs a little.
        show_table: Print a row per epoch.
        quiet: Print nothing at all.

    Attributes:
        recorder: History of all fits.
        opt: The optimiser; None before the first fit and after freezing.
        epochs_done: Passes over the training images so far; each has its own order and augmentation.
        steps_done: Steps so far, including those of trials.
        cuda_graphs: Replay forward and backward pass from a CUDA graph, with the same results: None where network and loss
            are made of parts of torch, torchvision, timm and vizsla alone, True also for parts of your own (whose Python then
            runs once), False never. Set it before a fit.

    Raises:
        ConfigError: Model and data have different classes, a module of your own fails on an image, or an argument cannot work.
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
        precision: NumberFormat | str = "auto",
        accumulate: int = 1,
        clip: float | None = None,
        compile: bool | str = False,  # noqa: A002 (torch's own word)
        sync_batch_norm: bool = False,
        compress_gradients: GradientCompression = "none",
        show_table: bool = True,
        quiet: bool = False,
    ) -> None:
        _check_model(model, dls)
        self.recorder = Recorder(metrics=as_metrics(metrics))
        FitSettings(accumulate=accumulate, clip=clip)  # Raises the ConfigError.
        if compress_gradients not in get_args(GradientCompression):
            raise ConfigError(
                f"compress_gradients must be one of {', '.join(get_args(GradientCompression))}. Received: "
                f"{compress_gradients!r}"
            )
        if sync_batch_norm and compile:
            raise ConfigError(
                "sync_batch_norm and compile cannot be combined. Leave one of them out."
            )
        self._dls = dls
        self._around: Classifier | None = None
        self._validated: tuple[object, Predictions] | None = None
        self.model = model.place(dls.device) if hasattr(model, "place") else model.to(dls.device)  # pyright: ignore[reportCallIssue] (a Classifier)
        self.loss_func = loss_func
        self.opt_func = opt_func
        self.lr = lr
        self.cbs: list[Callback] = []
        self.path = Path(dls.path if path is None else path)
        self.model_dir = Path(model_dir)
        self.wd = wd
        self.wd_bn_bias = wd_bn_bias
        self.train_bn = train_bn
        self.moms = moms
        self.precision: NumberFormat = resolve_precision(
            precision, device=dls.device, model=self.model
        )
        self.accumulate = accumulate
        self.clip = clip
        self.compile = compile
        self.sync_batch_norm = sync_batch_norm
        self.compress_gradients: GradientCompression = compress_gradients
        self.show_table = show_table
        self.display = make_display(quiet=quiet or not is_main())
        if isinstance(dls, DataLoaders):  # pyright: ignore[reportUnnecessaryIsInstance] (the classic dialect has others)
            check_own_parts(self.classifier, self._example)
        self.splitter = splitter
        self.epochs_done = 0
        self.steps_done = 0
        self.cuda_graphs: bool | None = None
        self.events = EventCaller(())
        self._compiled: nn.Module | None = None
        self._checked_dls: DataLoaders | None = None  # those that all processes were found to have
        self._captured: CapturedForward | None = None
        self.add_cbs(cbs)

    # --- what may be set again ---------------------------------------------------------------------------------------------

    @property
    def dls(self) -> DataLoaders:
        """The loaders; others of the same classes may be set between fits, with larger images for example."""
        return self._dls

    @dls.setter
    def dls(self, dls: DataLoaders) -> None:
        _check_model(self.classifier, dls)
        self._dls, self._around, self._validated = dls, None, None

    @property
    def loss_func(self) -> LossFunction:
        """The loss; another one may be set between fits, None for that of the task."""
        return self._loss_func

    @loss_func.setter
    def loss_func(self, given: LossFunction | None) -> None:
        dls = self.dls
        if given is not None and dls.balance == "weights":
            raise ConfigError(
                "balance weights the classes in the default loss, but loss_func is another loss. Give it "
                "weight=balanced_class_weights(dls) and leave balance out, or use balance='sample'."
            )
        loss_func = loss_for(dls) if given is None else given
        thresholds_of(loss_func, table=dls.table)  # Raises the ConfigError.
        check_weights(loss_func, classes=dls.table.vocab)
        if isinstance(loss_func, nn.Module):
            loss_func.to(dls.device)  # its class weights
        self._loss_func = loss_func

    @property
    def metrics(self) -> tuple[MetricFunction, ...]:
        """The metrics; one or several others may be set between fits."""
        return self.recorder.metrics

    @metrics.setter
    def metrics(self, given: MetricFunction | Sequence[MetricFunction] | None) -> None:
        self.recorder.metrics = as_metrics(given)

    @property
    def splitter(self) -> Splitter:
        """What divides the parameters into groups; another one may be set between fits."""
        return self._splitter

    @splitter.setter
    def splitter(self, given: Splitter | None) -> None:
        self._splitter: Splitter = given or parameter_groups
        groups = self._splitter(self.model)
        self.groups: tuple[Group, ...] = tuple(tuple(group) for group in groups)
        self.opt: torch.optim.Optimizer | None = None

    def add_cb(self, cb: Callback | type[Callback]) -> Self:
        """Add a callback to those of all fits; it is also an attribute of the learner, by its ``name``."""
        return self.add_cbs(cb)

    def add_cbs(self, cbs: Callbacks) -> Self:
        """Add callbacks, see ``add_cb``."""
        for callback in as_callbacks(cbs):
            callback.learn = self
            self.cbs.append(callback)
            if not hasattr(self, callback.name):
                setattr(self, callback.name, callback)
        return self

    def remove_cb(self, cb: Callback | type[Callback]) -> Self:
        """Remove a callback, or all of a class."""
        gone = [each for each in self.cbs if each is cb or (isinstance(cb, type) and isinstance(each, cb))]  # fmt: skip
        for callback in gone:
            self.cbs.remove(callback)
            callback.learn = None
            if vars(self).get(callback.name) is callback:
                delattr(self, callback.name)
        return self

    def remove_cbs(self, cbs: Callbacks) -> Self:
        """Remove callbacks, see ``remove_cb``."""
        for each in cbs if isinstance(cbs, Iterable) else () if cbs is None else (cbs,):
            self.remove_cb(each)
        return self

    @contextmanager
    def added_cbs(self, cbs: Callbacks) -> Generator[Self]:
        """Add callbacks inside the block."""
        made = as_callbacks(cbs)
        self.add_cbs(made)
        try:
            yield self
        finally:
            self.remove_cbs(made)

    @contextmanager
    def removed_cbs(self, cbs: Callbacks) -> Generator[Self]:
        """Remove callbacks inside the block."""
        before = list(self.cbs)
        self.remove_cbs(cbs)
        try:
            yield self
        finally:
            self.add_cbs([each for each in before if each not in self.cbs])

    @property
    def classifier(self) -> Classifier:
        """What images 0-1 go through: the model, or around a module of your own what normalises and knows the classes."""
        model: Any = self.model
        if isinstance(model, Classifier) or not isinstance(self.dls, DataLoaders):  # pyright: ignore[reportUnnecessaryIsInstance]
            return model  # Features of the classic dialect go through the model itself.
        if self._around is None or self._around.backbone.network is not model:
            table = self.dls.table
            preprocessing = loaders_preprocessing(self.dls)
            self._around = Classifier(
                whole_network(model, preprocessing=preprocessing),
                NoHead(),
                vocab=table.vocab,
                task=table.task,
                class_type=table.class_type,
            ).place(self.dls.device)
        return self._around

    @property
    def num_frozen_groups(self) -> int:
        """How many groups do not train; norms, which by default train in frozen groups too, do not count."""
        norms = {id(parameter) for parameter in norm_parameters(self.model)}
        return sum(
            not any(parameter.requires_grad and id(parameter) not in norms for parameter in group)
            for group in self.groups
        )

    # --- fits ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        n_epoch: int,
        lr: Rates | None = None,
        wd: float | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> None:
        """Train at constant rates; the momentum stays as it was.

        Args:
            n_epoch: Passes over the training images.
            lr: One rate, a slice, or one per group, see ``rates_per_group``; None is the learner's own.
            wd: Weight decay from now on; None leaves it.
            cbs: Callbacks of this fit alone.
            reset_opt: Begin with a new optimiser instead of going on with the averages of the last fit.
            start_epoch: Skip the epochs before it; the schedule goes on from there.
        """
        schedule = constant(self._num_steps(n_epoch), rates=self._rates(lr))
        self.run(schedule, n_epoch, "fit", cbs, wd, reset_opt, start_epoch)

    def fit_one_cycle(
        self,
        n_epoch: int,
        lr_max: Rates | None = None,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> None:
        """Train with the one-cycle policy (``schedules.one_cycle``); ``fit`` explains the other arguments.

        Args:
            lr_max: Rates at the peak; None is the learner's own.
            div: The cycle starts at ``lr_max / div``.
            div_final: It ends at ``lr_max / div_final``.
            pct_start: Part of the cycle in which the rates rise.
            moms: Momentum at the start, the peak and the end; None is the learner's own.
        """
        schedule = self._cycle(n_epoch, lr_max, div, div_final, pct_start, moms)
        self.run(schedule, n_epoch, "one cycle", cbs, wd, reset_opt, start_epoch)

    def fit_flat_cos(
        self,
        n_epoch: int,
        lr: Rates | None = None,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        wd: float | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> None:
        """Train at constant rates, then let them fall by half a cosine; ``fit`` explains the other arguments.

        Args:
            lr: Rates of the flat part; None is the learner's own.
            div_final: The rates end at ``lr / div_final``.
            pct_start: Part of the fit at constant rates.
        """
        num_steps, rates = self._num_steps(n_epoch), self._rates(lr)
        schedule = flat_cosine(num_steps, rates=rates, div_final=div_final, pct_start=pct_start)
        self.run(schedule, n_epoch, "flat cosine", cbs, wd, reset_opt, start_epoch)

    def fit_sgdr(
        self,
        n_cycles: int,
        cycle_len: int,
        lr_max: Rates | None = None,
        cycle_mult: int = 2,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        wd: float | None = None,
        start_epoch: int = 0,
    ) -> None:
        """Train with cosine annealing and warm restarts; ``fit`` explains the other arguments.

        Args:
            n_cycles: Number of cycles.
            cycle_len: Epochs of the first cycle.
            lr_max: Rates at the start of each cycle; None is the learner's own.
            cycle_mult: Each cycle is this many times longer than the one before.
        """
        counts = {"n_cycles": n_cycles, "cycle_len": cycle_len, "cycle_mult": cycle_mult}
        for name, value in counts.items():
            whole_number(value, name=name, least=1)
        n_epoch = cycle_len * sum(cycle_mult**cycle for cycle in range(n_cycles))
        schedule = cosine_restarts(
            n_cycles,
            rates=self._rates(lr_max),
            cycle_steps=self._num_steps(n_epoch) // n_epoch * cycle_len,
            cycle_mult=cycle_mult,
        )
        self.run(schedule, n_epoch, "warm restarts", cbs, wd, reset_opt, start_epoch)

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        freeze_epochs: int = 1,
        lr_mult: float = 100,
        pct_start: float = 0.3,
        div: float = 5.0,
        *,
        lr_max: None = None,
        div_final: float = 1e5,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
    ) -> None:
        """Train the head with the body frozen, then everything with smaller rates for earlier layers.

        Args:
            epochs: Passes over the training images with everything trained.
            base_lr: Peak rate of the head in the frozen phase; half of it afterwards.
            freeze_epochs: Passes with the body frozen.
            lr_mult: The earliest layers train at a rate this many times lower than the head.
            pct_start: Part of the second cycle in which the rates rise.
            div: The second cycle starts at its peak rate / div.
            lr_max: Refused: the rates follow from ``base_lr``.
            div_final: Both cycles end at the peak rate / div_final.
            wd: Weight decay from now on; None leaves it.
            moms: Momentum at the start, the peak and the end of both cycles; None is the learner's own.
            cbs: Callbacks of both phases. ``KeepBest`` and ``SaveModelCallback`` look for the best epoch of both together.
            reset_opt: Begin the second phase with a new optimiser; the first always does.
        """
        if lr_max is not None:
            raise ConfigError(
                f"fine_tune sets its learning rates by base_lr and lr_mult. Received: lr_max={lr_max!r}. Give "
                "base_lr, or freeze, fit_one_cycle(1, lr_max), unfreeze and fit_one_cycle(n, lr_max) yourself."
            )
        if not lr_mult > 0:
            raise ConfigError(f"lr_mult must be positive. Received: {lr_mult}")
        # Both before the first step: a bad number for the second phase would otherwise surface after the first was trained.
        frozen = self._cycle(freeze_epochs, slice(base_lr), 25.0, div_final, 0.99, moms)
        rates = slice(base_lr / 2 / lr_mult, base_lr / 2)
        unfrozen = self._cycle(epochs, rates, div, div_final, pct_start, moms)
        self.freeze()
        cbs = as_callbacks(cbs)  # a generator would be empty in the second phase
        self.run(frozen, freeze_epochs, "frozen", cbs, wd, is_last_phase=False)
        self.unfreeze()
        self.run(
            unfrozen, epochs, "unfrozen", cbs, reset_opt=reset_opt, epochs_before=freeze_epochs
        )

    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_it: int = 100,
        stop_div: bool = True,
        show_plot: bool = True,
        suggest_funcs: Suggestion | Sequence[Suggestion] | None = DEFAULT_SUGGESTIONS,
    ) -> SuggestedLRs | None:
        """Raise the learning rate step by step and watch where the loss falls; the learner is left as it was.

        Smith, "Cyclical learning rates for training neural networks", 2017 (arXiv 1506.01186).

        Args:
            start_lr: Rate of the first step.
            end_lr: The last step comes close to this rate.
            num_it: Steps.
            stop_div: Stop when the loss is several times its best.
            show_plot: Draw the loss against the rate, with the suggestions.
            suggest_funcs: ``minimum``, ``steep``, ``valley``, ``slide``, ``robust`` (three runs), or functions of the same form;
                None for the plot alone. By default ``valley`` is shown and unpacking gives (minimum, steep), as it used to.

        Returns:
            The suggestions; None if none were asked for.
        """
        from vizsla.train.rates.lr_finder import find_learning_rate, plot_finder

        curve = find_learning_rate(
            self,
            start_lr=start_lr,
            end_lr=end_lr,
            num_it=num_it,
            stop_div=stop_div,
            num_runs=runs_needed(suggest_funcs),
        )
        suggestions = None if suggest_funcs is None else suggest(curve, suggest_funcs)
        self.recorder.draw_finder = partial(plot_finder, curve, suggestions)
        if show_plot:
            plot_finder(curve, suggestions)
        if suggestions is not None and suggestions.note:
            self.display.line(suggestions.note)
        return suggestions

    def run(
        self,
        schedule: Schedule,
        n_epoch: int,
        stage: str,
        cbs: Callbacks = None,
        wd: float | None = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
        *,
        measured: bool = True,
        epochs_before: int = 0,
        is_last_phase: bool = True,
    ) -> None:
        """Run one fit; ``fit`` explains the other arguments.

        Args:
            schedule: Rates of every step of all epochs.
            stage: Name of the fit, for people.
            measured: Validate, print and record. Without, this is a trial that only its callbacks see.
            epochs_before: Epochs of earlier phases of the same training, whose best epoch callbacks remember.
            is_last_phase: Whether no further phase follows.

        Raises:
            TrainingError: The loss is not finite, or there is nothing to train on.
            PictureError: An image cannot be read.
        """
        if wd is not None and wd != self.wd:
            self.wd, reset_opt = wd, True
        if self.opt is None or reset_opt:
            self.create_opt()
        self.check_batches()
        if self._checked_dls is not self.dls:
            check_same_settings({"seed": self.dls.seed, "batch size": self.dls.bs, **VERSIONS})
            check_same_images(self.dls.table)
            self._checked_dls = self.dls
        given = [*(self.cbs if measured else ()), *as_callbacks(cbs)]
        given.sort(key=lambda callback: callback.order)
        for callback in given:
            callback.learn = self
        self.events = EventCaller([each for each in given if has_short_form(type(each))])
        callbacks = [each for each in given if each not in self.events.callbacks]
        if self.events.callbacks:
            callbacks.append(self.events)
        done_before = self.epochs_done
        fit = Fit(
            trainer=self,
            stage=stage,
            number=len(self.recorder.fits),
            n_epoch=n_epoch,
            num_batches=len(self.dls.train),
            schedule=schedule,
            callbacks=sorted(callbacks, key=lambda callback: callback.order),
            settings=FitSettings(accumulate=self.accumulate, clip=self.clip),
            scaler=make_scaler(self.precision),
            measured=measured,
            position=done_before,
            epochs_before=epochs_before,
            is_last_phase=is_last_phase,
            first_step=start_epoch * len(self.dls.train),
            record=FitRecord(stage=stage),
        )
        try:
            run_fit(fit)
        finally:
            if not measured:
                self.epochs_done = done_before

    def check_batches(self) -> None:
        """Check that training can begin.

        Raises:
            TrainingError: There are no training images, or batch norms would see one value.
            DataError: The images can be looked at, but not trained on.
        """
        if self.dls.table.untrainable is not None:
            raise self.dls.table.untrainable
        if not len(self.dls.train):
            raise TrainingError("There are no training images.")
        smallest = min(self.dls.train.bs, self.dls.train.n)
        check_parts([smallest])
        if smallest == 1 and any(isinstance(part, nn.BatchNorm1d) for part in self.model.modules()):
            raise TrainingError(
                "Batch norm in the head cannot be trained with batches of one image: batch statistics need "
                f"several values. Received: bs={self.dls.train.bs} and {self.dls.train.n} training images. Use "
                "bs=2 or more."
            )

    def _cycle(
        self,
        n_epoch: int,
        lr_max: Rates | None,
        div: float,
        div_final: float,
        pct_start: float,
        moms: tuple[float, float, float] | None,
    ) -> Schedule:
        return one_cycle(
            self._num_steps(n_epoch),
            peak_rates=self._rates(lr_max),
            div=div,
            div_final=div_final,
            pct_start=pct_start,
            momenta=self.moms if moms is None else moms,
        )

    def _rates(self, lr: Rates | None) -> tuple[float, ...]:
        return rates_per_group(self.lr if lr is None else lr, num_groups=len(self.groups))

    def _num_steps(self, n_epoch: int) -> int:
        whole_number(n_epoch, name="The number of epochs", least=1)
        self.check_batches()
        return n_epoch * len(self.dls.train)

    # --- what trains -----------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Train the head only (with ``train_bn`` the norms of the body too)."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Freeze the parameter groups before position ``n`` (negative: from the end); the optimiser starts afresh."""
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

    def training_mode(self) -> None:
        """Put the model in training mode; with ``train_bn=False`` frozen norms keep their statistics."""
        if self.train_bn:
            self.model.train()
        else:
            train_mode(self.model)

    def forward_pass(self) -> Callable[[Tensor], Tensor]:
        """Return what training images go through: the model, compiled and in step with other processes if need be."""
        if self.compile and self._compiled is None:
            mode = self.compile if isinstance(self.compile, str) else None
            self._compiled = cast("nn.Module", torch.compile(self.classifier, mode=mode))
        return as_one(
            self.classifier if self._compiled is None else self._compiled,
            compression=self.compress_gradients,
            sync_norms=self.sync_batch_norm,
        )

    def uses_graphs(self) -> bool:
        """Whether steps and predictions may be repeated from CUDA graphs, see ``cuda_graphs``."""
        if self.cuda_graphs is False or self.dls.device.type != "cuda":
            return False
        return bool(self.cuda_graphs) or is_known(self.model, self.loss_func)

    def snapshot(self) -> Snapshot:
        """Return a copy of all that training changes in model and optimiser."""
        state = self.model.state_dict(keep_vars=True)
        return Snapshot(
            weights={name: value.detach().clone() for name, value in state.items()},
            trainable={name: each.requires_grad for name, each in self.model.named_parameters()},
            training={name: part.training for name, part in self.model.named_modules()},
            optimiser=None if self.opt is None else copy.deepcopy(self.opt.state_dict()),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Put model and optimiser back to where a snapshot was taken, bit for bit; gradients are dropped."""
        self.model.load_state_dict(snapshot.weights)
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(snapshot.trainable[name])
            weight.grad = None
        for name, part in self.model.named_modules():
            part.training = snapshot.training[name]
        if snapshot.optimiser is None:
            self.opt = None
            return
        if self.opt is None or not self._optimises_what_trains(self.opt):
            self.create_opt()
        cast("torch.optim.Optimizer", self.opt).load_state_dict(copy.deepcopy(snapshot.optimiser))

    def _optimises_what_trains(self, optimiser: torch.optim.Optimizer) -> bool:
        moved = {id(value) for group in optimiser.param_groups for value in group["params"]}
        return moved == {id(value) for value in self.model.parameters() if value.requires_grad}

    # --- what it predicts ------------------------------------------------------------------------------------------------

    def predictions(self, ds_idx: int = 1, dl: DataLoader | None = None) -> Predictions:
        """Predict the training (0) or validation (1) images, prepared as in validation, or those of another loader.

        Raises:
            ConfigError: ``ds_idx`` is neither.
        """
        is_validation = ds_idx == 1 and dl is None
        dl = self.plain_loader(ds_idx) if dl is None else dl
        batches = dl.batches() if share()[1] == 1 else own_part(dl)
        forward = self._recorded_forward()
        if self.events.callbacks and self.events.in_fit:
            plain = partial(compute_logits, self.classifier, precision=self.precision)
            batches, forward = self.events.in_validation(batches, forward or plain)
        predictions = predict_batches(
            self.classifier,
            batches,
            table=dl.table,
            precision=self.precision,
            forward=forward,
        )
        predictions = whole_predictions(predictions, order=dl.rows)
        if is_validation:
            self._validated = (self.state_key(), predictions)
        return predictions

    def state_key(self) -> tuple[object, ...]:
        """Return a key that changes whenever the network's answers on the validation images may change.

        Fused optimisers do not count their changes in the tensors, as all other operations do: so steps count too.
        """
        values = (*self.model.parameters(), *self.model.buffers())
        changes = sum(value._version for value in values if not value.is_inference())  # pyright: ignore[reportPrivateUsage] (there is no public one)
        return self.steps_done, changes, id(self.dls.valid), self.precision

    def plain_loader(self, ds_idx: int) -> DataLoader:
        """Return a loader of the training (0) or validation (1) images in order, prepared as in validation.

        Raises:
            ConfigError: ``ds_idx`` is neither.
        """
        if ds_idx not in (0, 1):
            raise ConfigError(
                f"ds_idx must be 0 for training or 1 for validation images. Received: {ds_idx!r}"
            )
        return self.dls.valid if ds_idx == 1 else self.dls.loader_for(self.dls.train.rows)

    def measure(self, predictions: Predictions) -> list[float]:
        """Return the loss and the metrics of predictions; nan where there are none."""
        return self.measure_outputs(predictions.logits, predictions.targets)

    def measure_outputs(self, logits: Tensor, targets: Tensor) -> list[float]:
        """Return the loss and the metrics of outputs ``(N, C)`` and targets, both on the CPU; nan where N is 0."""
        if not len(targets):
            return [math.nan] * (1 + len(self.metrics))
        device = logits.device
        if isinstance(self.loss_func, nn.Module):
            device = next(self.loss_func.buffers(), logits).device  # its class weights
        loss = self.loss_func(logits.to(device), targets.to(device))
        return [float(loss), *(float(metric(logits, targets)) for metric in self.metrics)]

    def _example(self) -> Tensor:
        """Return a black image of the size that the network sees, ``(1, 3 or 1, H, W)``, or one of the data where sizes differ."""
        size, table = self.dls.final_size, self.dls.table
        if size is not None:
            channels = len(self.classifier.preprocessing.mean)
            return torch.zeros((1, channels, *size), device=self.dls.device)
        rows = torch.cat([table.train_rows, table.valid_rows])
        return self.dls.loader_for(rows[:1]).one_batch()[0].as_subclass(torch.Tensor)

    def _recorded_forward(self) -> CapturedForward | None:
        """Return what predicts from a CUDA graph; None where nothing is recorded."""
        if not self.uses_graphs():
            self._captured = None
            return None
        known = self._captured
        model = self.classifier
        if known is None or known.classifier is not model or known.precision != self.precision:
            known = CapturedForward(model, precision=self.precision)
        known.refresh()
        self._captured = known
        return known


def loaders_preprocessing(dls: DataLoaders) -> Preprocessing:
    """Return how loaders prepare images for a network of the user's: by ``Normalize`` among their transforms; without it they stay 0-1.

    Raises:
        ConfigError: It is for another number of channels.
    """
    normalize, grey = dls.augmentation.normalize, dls.reader.items.grey
    channels = 1 if grey else 3
    if normalize is None:
        return Preprocessing(mean=(0,) * channels, std=(1,) * channels, grey=grey)
    statistics = normalize.set_up(dls.train)
    mean, std = statistics.mean or (), statistics.std or ()
    if len(mean) != channels or len(std) != channels:
        wanted = (
            "grey, so Normalize has one mean and spread"
            if grey
            else "RGB, so Normalize has three means and spreads"
        )
        raise ConfigError(f"The images are {wanted}. Received: {normalize}")
    return Preprocessing(mean=mean, std=std, grey=grey)


def _check_model(model: nn.Module, dls: DataLoaders) -> None:
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(
            f"A learner trains an nn.Module. Received: {model!r:.80}. Give the module itself, such as MyNetwork(), or for a network "
            "by name vision_learner(dls, 'resnet34')."
        )
    vocab = getattr(model, "vocab", None)
    there = dls.table.vocab
    if vocab is not None and tuple(vocab) != there:
        raise ConfigError(
            f"The model has {len(vocab)} classes {list(vocab[:5])} and the data {len(there)} {list(there[:5])}. "
            "Build the model for the classes of the data, in the same order."
        )
