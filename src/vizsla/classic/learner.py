"""Data and an architecture in; a network that is trained, saved and asked, out: lesson one's learner over the engine's trainer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vizsla.classic.fitting import BestSaver, CycleSaver, returned
from vizsla.classic.losses import usual_loss, usual_metrics
from vizsla.classic.models import ConvnetBuilder
from vizsla.classic.network import Network
from vizsla.classic.plan import FitPlan, Lengths, rates_of
from vizsla.classic.sched import LossRecorder, LRFinder
from vizsla.train.schedules import lr_range, lr_range_linear

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Sequence

    from torch import nn

    from vizsla.classic.architectures import Arch
    from vizsla.classic.data import ImageClassifierData
    from vizsla.classic.fitting import Callback
    from vizsla.train.optim import OptimiserFactory
    from vizsla.train.schedules import Rates, Schedule
    from vizsla.train.trainer import LossFunction, MetricFunction

FINDER_NAME = "tmp"
"""Under it ``lr_find`` saves the weights before it begins."""


class ConvLearner(Network):
    """A network, its data and how it is trained; made by ``ConvLearner.pretrained``.

    Args:
        data: Pictures.
        models: The network.
        precompute: Train the head alone, on features of the body that are computed once.
        opt_fn: Makes the optimiser, anew for each fit; None is SGD with momentum 0.9.
        tmp_name: Folder of cached features, in the data's folder.
        models_name: Folder of saved weights, in the data's folder.
        metrics: Functions of outputs and targets; None is accuracy.
        clip: Largest norm of the gradients; None leaves them.
        crit: Loss of outputs and targets; None is the one that fits the outputs.

    Attributes:
        sched: What happened in the last fit.
        metrics: As given.
        crit: As given.
        clip: As given.
        opt_fn: As given.
    """

    def __init__(
        self,
        data: ImageClassifierData,
        models: ConvnetBuilder,
        precompute: bool = False,
        opt_fn: OptimiserFactory | None = None,
        tmp_name: str = "tmp",
        models_name: str = "models",
        metrics: Sequence[MetricFunction] | None = None,
        clip: float | None = None,
        crit: LossFunction | None = None,
    ) -> None:
        super().__init__(data, models, tmp_name=tmp_name, models_name=models_name)
        task = data.table.task
        self.opt_fn = opt_fn
        self.clip = clip
        self.crit: LossFunction = usual_loss(task) if crit is None else crit
        self.metrics = usual_metrics(task) if metrics is None else list(metrics)
        self.sched: Any = None
        self.precompute = precompute

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
            data: Pictures.
            ps: Dropout before each linear layer of the head; one number for all; None for 0.25, and 0.5 before the last.
            xtra_fc: Widths of the head's hidden layers; None for one of 512.
            xtra_cut: So many more layers of the body are cut off.
            custom_head: Takes maps instead of the usual head.
            precompute: Train the head alone, on features of the body that are computed once.
            pretrained: Start from published weights.
            opt_fn: Makes the optimiser, anew for each fit; None is SGD with momentum 0.9.
            tmp_name: Folder of cached features.
            models_name: Folder of saved weights.
            metrics: Functions of outputs and targets; None is accuracy.
            clip: Largest norm of the gradients.
            crit: Loss of outputs and targets.

        Raises:
            WeightsError: There are no published weights; the message names the ways out.
        """
        transforms = data.tfms[1]
        models = ConvnetBuilder(
            f,
            vocab=data.table.vocab,
            task=data.table.task,
            stats=None if transforms is None else transforms.stats,
            ps=ps,
            xtra_fc=xtra_fc,
            xtra_cut=xtra_cut,
            custom_head=custom_head,
            pretrained=pretrained,
            seed=data.loaders.seed,
        )
        return cls(data, models, precompute, opt_fn, tmp_name, models_name, metrics, clip, crit)

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
            cycle_mult: Every cycle is so many times longer than the one before.
            cycle_save_name: Save the weights after each cycle, as ``NAME_cyc_0`` and so on.
            best_save_name: Save the weights whenever the first metric is the best so far.
            use_clr: (div, cut_div) or (div, cut_div, highest, lowest momentum): triangles instead of cosines.
            use_clr_beta: (div, pct) or (div, pct, highest, lowest momentum): triangles with a tail.
            metrics: Instead of the learner's.
            callbacks: Told of the fit.
            use_wd_sched: Not supported.
            norm_wds: Not supported.
            wds_sched_mult: Not supported.
            use_swa: Not supported.
            swa_start: Not supported.
            swa_eval_freq: Not supported.
            get_ep_vals: Return the values of all epochs too.

        Returns:
            ``[validation loss, metrics...]`` of the last epoch, or that and the values by epoch; None if a callback ended the
            fit within an epoch or there were no epochs.

        Raises:
            NotImplementedError: An option that is not supported was given.
            ConfigError: A number cannot work, or there is not one rate per group.
        """
        if use_wd_sched or norm_wds or use_swa or wds_sched_mult is not None:
            raise NotImplementedError(
                "Schedules of the weight decay and averaged weights (use_wd_sched, norm_wds, wds_sched_mult, use_swa) are "
                "not part of this dialect. Leave them out, or train with vizsla's own Learner."
            )
        del swa_start, swa_eval_freq
        plan = FitPlan(
            lengths=Lengths(n_cycle, cycle_len, cycle_mult),
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
        last = returned(self._bench.trainer.recorder.last.values[-1])
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

        A row is printed if the loss does not run away before the end of the epoch.

        Args:
            start_lr: First rate, or one per group.
            end_lr: Rate that the last group heads for.
            wds: Weight decay.
            linear: Rates rise by equal amounts from 0 instead of by equal factors.
            metrics: Instead of the learner's.
            callbacks: Told of the fit.
        """
        self.save(FINDER_NAME)
        trainer = self._bench.trainer
        before = trainer.snapshot()
        rising = lr_range_linear if linear else lr_range
        try:
            rates = rising(len(self.data.trn_dl), self._rates(start_lr), float(end_lr))
            self._run(rates, 1, LRFinder(), wds, metrics, callbacks)
        finally:
            trainer.opt = None
            before.restore(trainer.model, None)

    def warm_up(self, lr: Rates, wds: float | Sequence[float] | None = None) -> None:
        """Train one epoch at rates that rise from 0 to ``lr``, and keep the result.

        Args:
            lr: Rate of the end, or one per group.
            wds: Weight decay.
        """
        rates = self._rates(lr)
        schedule = lr_range_linear(len(self.data.trn_dl), rates, rates[-1])
        self._run(schedule, 1, LRFinder(), wds)

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
        self.sched = sched
        trainer = self._bench.trainer
        trainer.loss_func, trainer.clip = self.crit, self.clip
        return self._bench.run(
            schedule,
            n_epoch=n_epoch,
            sched=sched,
            opt_fn=self.opt_fn,
            wds=wds,
            metrics=self.metrics if metrics is None else metrics,
            callbacks=callbacks,
            savers=savers,
        )
