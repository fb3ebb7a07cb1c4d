"""Lesson one's learner: a network to train, save and ask, over the engine's trainer.

There are two trainers: one for the whole network on images, one for the head alone on features of the body that were computed
once (``precompute``). Both train the same head.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vizsla.classic.features import cached_features
from vizsla.classic.metrics import usual_loss, usual_metrics
from vizsla.classic.models import SUFFIXES, ConvnetBuilder, OwnNetwork, load_model, model_summary
from vizsla.classic.training import (
    BestSaver,
    CallbackBridge,
    ClassicTrainer,
    CycleSaver,
    EndOfFit,
    FitPlan,
    LossRecorder,
    LRFinder,
    TablePrinter,
    decays_of,
    rates_of,
    returned_values,
)
from vizsla.errors import ConfigError, SuggestsNames
from vizsla.infer.run import predict_batches
from vizsla.models.classifier import evaluation_mode
from vizsla.models.groups import freeze_to
from vizsla.train.checkpoint import save_state
from vizsla.train.optim import build_optimiser
from vizsla.train.rates.schedules import lr_range

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from vizsla.classic.data import ImageClassifierData
    from vizsla.classic.loaders import Batches
    from vizsla.classic.models import Arch, Stats, SummaryRow
    from vizsla.classic.training import Callback
    from vizsla.evaluate.predictions import Predictions
    from vizsla.train.optim import OptimiserFactory
    from vizsla.train.rates.schedules import Rates, Schedule
    from vizsla.train.trainer import LossFunction, MetricFunction

__all__ = ["ConvLearner"]

FINDER_NAME = "tmp"
"""The name under which ``lr_find`` saves the weights before it begins."""

DEFAULT_OPTIMISER = partial(torch.optim.SGD, momentum=0.9)


class DataAndTrainer(NamedTuple):
    """Images with the trainer of the whole network, or features with that of the head."""

    data: ImageClassifierData
    trainer: ClassicTrainer


class ConvLearner(SuggestsNames):
    """A network with its data and training; made by ``ConvLearner.pretrained``, which explains the options, or ``from_model_data``.

    Attributes:
        models: The network in parts.
        sched: Record of the last fit, with its plots.
        metrics: Functions of outputs and targets.
        crit: Loss of outputs and targets.
        clip: Largest norm of the gradients; None leaves them.
        opt_fn: Makes the optimiser of each fit.
        tmp_path: Folder of cached features.
        models_path: Folder of saved weights.
    """

    def __init__(
        self,
        data: ImageClassifierData,
        models: ConvnetBuilder | OwnNetwork,
        precompute: bool = False,
        opt_fn: OptimiserFactory | None = None,
        tmp_name: str = "tmp",
        models_name: str = "models",
        metrics: Sequence[MetricFunction] | None = None,
        clip: float | None = None,
        crit: LossFunction | None = None,
    ) -> None:
        task = data.table.task
        self.models = models
        self.opt_fn = opt_fn
        self.clip = clip
        self.crit: LossFunction = usual_loss(task) if crit is None else crit
        self.metrics = usual_metrics(task) if metrics is None else list(metrics)
        self.sched: Any = None
        self.tmp_path = str(Path(data.path, tmp_name))
        self.models_path = str(Path(data.path, models_name))
        for folder in (self.tmp_path, self.models_path):
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._num_passes = 0
        self.set_data(data, precompute)

    @classmethod
    def pretrained(
        cls,
        f: Arch,
        data: ImageClassifierData,
        ps: float | Sequence[float] | None = None,
        xtra_fc: Sequence[int] | None = None,
        xtra_cut: int = 0,
        custom_head: nn.Module | None = None,
        precompute: bool = False,
        pretrained: bool = True,
        opt_fn: OptimiserFactory | None = None,
        tmp_name: str = "tmp",
        models_name: str = "models",
        metrics: Sequence[MetricFunction] | None = None,
        clip: float | None = None,
        crit: LossFunction | None = None,
    ) -> ConvLearner:
        """Build a learner: a pretrained body, a new head, the body frozen.

        Args:
            f: The architecture, such as ``resnet34``.
            data: Images.
            ps: Dropout before each linear layer of the head; one number for all; None for 0.25, and 0.5 before the last.
            xtra_fc: Widths of the head's hidden layers; None for one of 512.
            xtra_cut: How many more layers of the body to cut off.
            custom_head: Takes maps instead of the usual head.
            precompute: Whether to train the head alone, on features of the body that are computed once.
            pretrained: Whether to start from published weights.
            opt_fn: Makes a new optimiser for each fit; None is SGD with momentum 0.9.
            tmp_name: Folder of cached features, in the data's folder.
            models_name: Folder of saved weights, in the data's folder.
            metrics: Functions of outputs and targets; None is accuracy.
            clip: Largest norm of the gradients; None leaves them.
            crit: Loss of outputs and targets; None is the one that fits the outputs.

        Raises:
            WeightsError: There are no published weights; the message names the ways out.
        """
        models = ConvnetBuilder(
            f,
            vocab=data.table.vocab,
            task=data.table.task,
            stats=_stats(data),
            ps=ps,
            xtra_fc=xtra_fc,
            xtra_cut=xtra_cut,
            custom_head=custom_head,
            pretrained=pretrained,
            seed=data.loaders.seed,
        )
        return cls(data, models, precompute, opt_fn, tmp_name, models_name, metrics, clip, crit)

    @classmethod
    def from_model_data(
        cls,
        m: nn.Module,
        data: ImageClassifierData,
        opt_fn: OptimiserFactory | None = None,
        tmp_name: str = "tmp",
        models_name: str = "models",
        metrics: Sequence[MetricFunction] | None = None,
        clip: float | None = None,
        crit: LossFunction | None = None,
    ) -> ConvLearner:
        """Build a learner of a network of your own, all of which trains; each of its children is a layer group.

        Args:
            m: From normalised images, float32 ``(B, 3, sz, sz)``, to what ``crit`` takes: log-probabilities ``(B, C)``, or
                probabilities where an image has several labels.
            data: Images.
            opt_fn: As in ``pretrained``, like all that follow.
            tmp_name: Folder of temporary files.
            models_name: Folder of saved weights.
            metrics: Functions of outputs and targets.
            clip: Largest norm of the gradients.
            crit: Loss of outputs and targets.
        """
        models = OwnNetwork(m, vocab=data.table.vocab, task=data.table.task, stats=_stats(data))
        learn = cls(
            data,
            models,
            opt_fn=opt_fn,
            tmp_name=tmp_name,
            models_name=models_name,
            metrics=metrics,
            clip=clip,
            crit=crit,
        )
        learn.unfreeze()
        return learn

    def __getitem__(self, index: int) -> nn.Module:
        """Return a layer of the model."""
        return self.children[index]

    def __repr__(self) -> str:
        """Return the model's text."""
        return repr(self.model)

    # --- data and network --------------------------------------------------------------------------------------------

    @property
    def precompute(self) -> bool:
        """Whether the head alone trains, on features of the body that are computed once."""
        return self._precompute

    @precompute.setter
    def precompute(self, value: bool) -> None:
        if value and self._head is None:
            self._head = self._with_trainer(self._feature_data(), self.models.fc_model)
            self._head.trainer.norms_frozen = self._whole.trainer.norms_frozen
        self._precompute = bool(value)

    @property
    def data(self) -> ImageClassifierData:
        """The training data: images, or features while ``precompute``."""
        return self._current.data

    @property
    def fc_data(self) -> ImageClassifierData | None:
        """The features; None until they are computed."""
        return None if self._head is None else self._head.data

    @property
    def model(self) -> nn.Module:
        """What trains: body and head in one sequence, or the head while ``precompute``."""
        return self.models.fc_model if self.precompute else self.models.model

    @property
    def children(self) -> list[nn.Module]:
        """The layers of the model."""
        return list(self.model.children())

    def set_data(self, data: ImageClassifierData, precompute: bool = False) -> None:
        """Take other data of the same classes, perhaps with images of another size, and freeze the body."""
        self._whole = self._with_trainer(data, self.models.classifier)
        self._head: DataAndTrainer | None = None
        self._precompute = False
        self.freeze()
        self.precompute = precompute

    def get_layer_groups(self) -> list[list[nn.Module]]:
        """Return the layers in groups; each group may have its own learning rate."""
        return self.models.get_layer_groups(self.precompute)

    def freeze_to(self, n: int) -> None:
        """Let the groups from position ``n`` on train, and no others; negative numbers count from the end."""
        freeze_to(self.models.parameter_groups(self.precompute), n)

    def freeze(self) -> None:
        """Train the head only."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything; this ends ``precompute``."""
        self.precompute = False
        self.freeze_to(0)

    def freeze_all_but(self, n: int) -> None:
        """Train the group at position ``n`` only."""
        groups = self.models.parameter_groups(self.precompute)
        for group in groups:
            for parameter in group:
                parameter.requires_grad_(group is groups[n])

    def bn_freeze(self, do_freeze: bool) -> None:
        """Freeze the statistics of all norms, or let them move again."""
        for each in (self._whole, self._head):
            if each is not None:
                each.trainer.norms_frozen = do_freeze

    def summary(self) -> OrderedDict[str, SummaryRow]:
        """Return the inputs and outputs of each layer of body and head; nothing changes."""
        sz = self._whole.data.sz
        return model_summary(self.models.model, (3, sz, sz))

    def save(self, name: str) -> None:
        """Write the weights of body and head to ``models/NAME.safetensors``.

        Raises:
            OutputError: The file cannot be written.
        """
        file = Path(self.models_path, name + SUFFIXES[0])
        save_state(file, self.models.model.state_dict(), values={})

    def load(self, name: str) -> None:
        """Read weights that ``save`` wrote, or those of a file ``NAME.h5`` of the original library.

        Raises:
            FileNotFoundError: There is no such file.
            WeightsError: It is of another network.
        """
        load_model(self.models, Path(self.models_path, name))

    def save_cycle(self, name: str, cycle: int) -> None:
        """Save as ``NAME_cyc_0`` and so on."""
        self.save(f"{name}_cyc_{cycle}")

    def load_cycle(self, name: str, cycle: int) -> None:
        """Load what ``save_cycle`` wrote."""
        self.load(f"{name}_cyc_{cycle}")

    # --- training ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        lrs: Rates,
        n_cycle: int,
        wds: float | Sequence[float] | None = None,
        cycle_len: int | None = None,
        cycle_mult: float = 1,
        cycle_save_name: str | None = None,
        best_save_name: str | None = None,
        use_clr: Sequence[float] | None = None,
        use_clr_beta: Sequence[float] | None = None,
        metrics: Sequence[MetricFunction] | None = None,
        callbacks: Sequence[Callback] | None = None,
        use_wd_sched: bool = False,
        norm_wds: bool = False,
        wds_sched_mult: object = None,
        use_swa: bool = False,
        swa_start: int = 1,
        swa_eval_freq: int = 5,
        get_ep_vals: bool = False,
    ) -> Any:
        """Train, and print a row per epoch.

        Args:
            lrs: Learning rate, or one per group.
            n_cycle: Number of cycles; of epochs without ``cycle_len``.
            wds: Weight decay, or one per group; None is none.
            cycle_len: Epochs of the first cycle, whose rate falls by half a cosine; None keeps the rate constant.
            cycle_mult: Every cycle is this many times longer than the one before.
            cycle_save_name: Save the weights after each cycle, as ``NAME_cyc_0`` and so on.
            best_save_name: Save the weights whenever the first metric is the best so far.
            use_clr: (div, cut_div) or (div, cut_div, highest, lowest momentum): triangles instead of cosines.
            use_clr_beta: (div, pct) or (div, pct, highest, lowest momentum): triangles with a tail.
            metrics: Replace the learner's.
            callbacks: Objects that follow the fit and may end it.
            use_wd_sched: Not supported, like the five options below.
            norm_wds: Not supported.
            wds_sched_mult: Not supported.
            use_swa: Not supported.
            swa_start: Not supported.
            swa_eval_freq: Not supported.
            get_ep_vals: Whether to return the values of all epochs too.

        Returns:
            ``[validation loss, metrics...]`` of the last epoch, or that and the values by epoch; None if a callback ended the
            fit within an epoch or there were no epochs.

        Raises:
            NotImplementedError: An unsupported option was given.
            ConfigError: A number cannot work, or there is not one rate per group.
        """
        if use_wd_sched or norm_wds or use_swa or wds_sched_mult is not None:
            raise NotImplementedError(
                "Schedules of the weight decay and averaged weights (use_wd_sched, norm_wds, wds_sched_mult, "
                "use_swa) are not supported by vizsla.classic. Leave them out, or train with vizsla's own "
                "Learner."
            )
        del swa_start, swa_eval_freq
        plan = FitPlan(
            n_cycle=n_cycle,
            cycle_len=cycle_len,
            cycle_mult=cycle_mult,
            batches=len(self.data.trn_dl),
            use_clr=use_clr,
            use_clr_beta=use_clr_beta,
        )
        if not plan.epochs:
            return None
        schedule = plan.schedule(self._rates(lrs))
        savers: list[Any] = []
        if cycle_save_name:
            save = partial(self.save_cycle, cycle_save_name)
            savers.append(CycleSaver(save, ends=plan.cycle_ends))
        if best_save_name:
            savers.append(BestSaver(partial(self.save, best_save_name)))
        values = self._run(schedule, plan.epochs, LossRecorder(), wds, metrics, callbacks, savers)
        if values is None:
            return None
        last = returned_values(self._current.trainer.recorder.last.values[-1])
        return (last, values) if get_ep_vals else last

    def lr_find(
        self,
        start_lr: Rates = 1e-5,
        end_lr: float = 10,
        wds: float | Sequence[float] | None = None,
        linear: bool = False,
        metrics: Sequence[MetricFunction] | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        """Train one epoch at rising rates, keep the losses for ``sched.plot()``, and put everything back.

        A row is printed if the loss does not diverge before the end of the epoch. ``wds``, ``metrics`` and ``callbacks`` are those of
        ``fit``.

        Args:
            start_lr: First rate, or one per group.
            end_lr: Rate that the last group heads for.
            wds: Weight decay.
            linear: Whether rates rise by equal amounts from 0 instead of by equal factors.
            metrics: Replace the learner's.
            callbacks: Follow the fit.
        """
        self.save(FINDER_NAME)
        trainer = self._current.trainer
        trainer.opt = None
        before = trainer.snapshot()
        try:
            num_steps, start = len(self.data.trn_dl), self._rates(start_lr)
            rates = lr_range(num_steps, start, float(end_lr), linearly=linear)
            self._run(rates, 1, LRFinder(), wds, metrics, callbacks)
        finally:
            trainer.restore(before)

    def warm_up(self, lr: Rates, wds: float | Sequence[float] | None = None) -> None:
        """Train one epoch at rates that rise from 0 to ``lr``, one or one per group, and keep the result."""
        rates = self._rates(lr)
        schedule = lr_range(len(self.data.trn_dl), rates, rates[-1], linearly=True)
        self._run(schedule, 1, LRFinder(), wds)

    # --- predictions -------------------------------------------------------------------------------------------------

    def predict(self, is_test: bool = False) -> NDArray[np.float32]:
        """Return the outputs for the validation or test images, in order: log-probabilities, float32 ``(N, C)``.

        For several labels per image they are probabilities.

        Raises:
            ValueError: There are no test images.
        """
        return self.predict_with_targs(is_test)[0]

    def predict_with_targs(self, is_test: bool = False) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return outputs as ``predict`` does, and targets ``(N,)``."""
        loader = _existing(self.data.test_dl if is_test else self.data.val_dl)
        found = _predictions(self._current.trainer, loader)
        return found.logits.numpy(), found.targets.numpy()

    def predict_dl(self, dl: Batches) -> NDArray[np.float32]:
        """Return the outputs for the items of a loader of the learner's data."""
        return _predictions(self._current.trainer, dl).logits.numpy()

    def predict_array(self, arr: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs for normalised images ``(N, 3, H, W)``, as transforms make them, or features ``(N, nf)``."""
        model = self.models.model if np.ndim(arr) == 4 else self.models.fc_model
        device = next(model.parameters()).device
        with evaluation_mode(model), torch.inference_mode():
            return model(torch.as_tensor(arr, dtype=torch.float32, device=device)).cpu().numpy()

    def TTA(  # noqa: N802 (the notebooks' name for it)
        self, n_aug: int = 4, is_test: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the outputs for the images as they are and for augmented versions of them.

        Args:
            n_aug: Number of augmented versions; for every four of them the plain outputs are repeated once, in front.
            is_test: Take the test images instead of the validation images.

        Returns:
            float32 ``(ceil(n_aug / 4) + n_aug, N, C)``, to be averaged as probabilities; and targets ``(N,)``.

        Raises:
            ValueError: There are no test images.
        """
        data, trainer = self._whole
        plain = _existing(data.test_dl if is_test else data.val_dl)
        augmented = _existing(data.test_aug_dl if is_test else data.aug_dl)
        first = _predictions(trainer, plain)
        outputs = [first.logits.numpy()] * -(-n_aug // 4)
        with trainer.display.bar("augmented", total=n_aug, unit="passes") as move:
            for number in range(n_aug):
                found = _predictions(trainer, augmented, epoch=self._num_passes + number)
                outputs.append(found.logits.numpy())
                move(number + 1)
        self._num_passes += n_aug
        return np.stack(outputs), first.targets.numpy()

    # --- the engine's trainers ---------------------------------------------------------------------------------------

    @property
    def _current(self) -> DataAndTrainer:
        return self._head if self._precompute and self._head is not None else self._whole

    def _with_trainer(self, data: ImageClassifierData, model: nn.Module) -> DataAndTrainer:
        groups = self.models.parameter_groups(precompute=model is self.models.fc_model)
        trainer = ClassicTrainer(
            data.loaders,  # pyright: ignore[reportArgumentType] (it has what a trainer asks for)
            model,
            splitter=lambda _: groups,
            train_bn=False,
            wd_bn_bias=True,
            show_table=False,
        )
        return DataAndTrainer(data, trainer)

    def _feature_data(self) -> ImageClassifierData:
        """Run the body over all images once, or read its outputs from the cache."""
        data, trainer = self._whole
        models = self.models
        if isinstance(models, OwnNetwork):
            raise ConfigError(
                "precompute=True trains only the head of ConvLearner.pretrained; a network of your own has none. "
                "Leave it out."
            )

        def features(loader: Batches, name: str) -> NDArray[np.float32]:
            file = Path(self.tmp_path, f"{name}_{models.name}_{data.sz}.npy")
            preparation = repr(data.tfms[1])
            return cached_features(
                models, loader, file=file, preparation=preparation, trainer=trainer
            )

        return data.with_features(
            features(data.fix_dl, "x_act"),
            features(data.val_dl, "x_act_val"),
            None if data.test_dl is None else features(data.test_dl, "x_act_test"),
        )

    def _rates(self, lrs: Rates) -> tuple[float, ...]:
        count = len(self.get_layer_groups())
        return rates_of(lrs, num_groups=count, head_only=self.precompute)

    def _run(
        self,
        schedule: Schedule,
        n_epoch: int,
        sched: LossRecorder,
        wds: float | Sequence[float] | None = None,
        metrics: Sequence[MetricFunction] | None = None,
        callbacks: Sequence[Callback] | None = None,
        savers: Sequence[Any] = (),
    ) -> OrderedDict[int, list[float]] | None:
        """Run one fit with a new optimiser; return the printed values, or None if a callback ended it within an epoch."""
        self.sched = sched
        trainer = self._current.trainer
        trainer.loss_func, trainer.clip = self.crit, self.clip
        trainer.metrics = self.metrics if metrics is None else metrics
        trainer.opt = build_optimiser(
            trainer.model,
            trainer.groups,
            opt_func=DEFAULT_OPTIMISER if self.opt_fn is None else self.opt_fn,
            weight_decay=decays_of(wds, num_groups=len(trainer.groups)),
            decay_norms_and_biases=True,
        )
        table = TablePrinter()
        cbs = [sched, table, *savers, CallbackBridge(callbacks or ())]
        try:
            trainer.run(schedule, n_epoch=n_epoch, stage="lesson one", cbs=cbs)
        except EndOfFit:
            if not sched.epochs or sched.epochs[-1] < len(sched.lrs):
                return None
        return table.values


def _stats(data: ImageClassifierData) -> Stats | None:
    """Return the statistics with which the images of a data object are normalised."""
    transforms = data.tfms[1]
    return None if transforms is None else transforms.stats


def _predictions(trainer: ClassicTrainer, loader: Batches, *, epoch: int = 0) -> Predictions:
    """Return the outputs for the items of a loader; random crops differ between epochs."""
    model: Any = trainer.model
    batches = loader.batches(epoch=epoch)
    return predict_batches(model, batches, table=loader.table, precision=trainer.precision)


def _existing(loader: Batches | None) -> Batches:
    if loader is None:
        raise ConfigError("no test set: pass test_name=")
    return loader
