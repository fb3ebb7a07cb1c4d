"""Numbers of epochs and rates in, fits by every schedule out: the ways in which a learner is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.train.schedules import (
    constant,
    cosine_restarts,
    flat_cosine,
    one_cycle,
    rates_per_group,
    whole_number,
)
from vizsla.train.suggestions import DEFAULT_SUGGESTIONS, runs_needed, suggest
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.train.schedules import Rates, Schedule
    from vizsla.train.suggestions import SuggestedLRs, Suggestion
    from vizsla.train.trainer import Callbacks


class Fits(Trainer):
    """A trainer with the usual fits.

    All of them raise a ``ConfigError`` before anything is trained if a number cannot work, and a ``TrainingError`` if the
    loss is not finite any more. What they share: ``lr`` may be one rate, a slice, or one per group, see
    ``rates_per_group``; ``wd`` is the weight decay from now on; ``cbs`` are callbacks of this fit alone; ``reset_opt`` begins
    with a new optimiser; epochs before ``start_epoch`` are taken as done.
    """

    def fit(
        self,
        n_epoch: int,
        lr: Rates | None = None,
        wd: float | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> None:
        """Train at constant rates; the momentum stays what it was.

        Args:
            n_epoch: Passes over the training pictures.
            lr: Rates; None is the learner's own.
            wd: Weight decay from now on.
            cbs: Callbacks of this fit.
            reset_opt: Begin with a new optimiser.
            start_epoch: Epochs before it are taken as done.
        """
        schedule = constant(self._num_steps(n_epoch), rates=self._rates(lr))
        self.run(
            schedule,
            n_epoch=n_epoch,
            stage="fit",
            cbs=cbs,
            wd=wd,
            reset_opt=reset_opt,
            start_epoch=start_epoch,
        )

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
        """Train with the one-cycle policy (``schedules.one_cycle``).

        Args:
            n_epoch: Passes over the training pictures.
            lr_max: Rates at the peak; None is the learner's own.
            div: The cycle starts at ``lr_max / div``.
            div_final: It ends at ``lr_max / div_final``.
            pct_start: Part of the cycle that rises.
            wd: Weight decay from now on.
            moms: Momentum at the start, the peak and the end; None is the learner's own.
            cbs: Callbacks of this fit.
            reset_opt: Begin with a new optimiser.
            start_epoch: Epochs before it are taken as done; the schedule goes on where it would be.
        """
        schedule = self._cycle(n_epoch, lr_max, div, div_final, pct_start, moms)
        self.run(
            schedule,
            n_epoch=n_epoch,
            stage="one cycle",
            cbs=cbs,
            wd=wd,
            reset_opt=reset_opt,
            start_epoch=start_epoch,
        )

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
        """Train at constant rates, then let them fall by half a cosine.

        Args:
            n_epoch: Passes over the training pictures.
            lr: Rates of the flat part; None is the learner's own.
            div_final: The rates end at ``lr / div_final``.
            pct_start: Part that is flat.
            wd: Weight decay from now on.
            cbs: Callbacks of this fit.
            reset_opt: Begin with a new optimiser.
            start_epoch: Epochs before it are taken as done.
        """
        schedule = flat_cosine(
            self._num_steps(n_epoch),
            rates=self._rates(lr),
            div_final=div_final,
            pct_start=pct_start,
        )
        self.run(
            schedule,
            n_epoch=n_epoch,
            stage="flat cosine",
            cbs=cbs,
            wd=wd,
            reset_opt=reset_opt,
            start_epoch=start_epoch,
        )

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
        """Train with cosine annealing and warm restarts.

        Args:
            n_cycles: Number of cycles.
            cycle_len: Epochs of the first.
            lr_max: Rates at the start of each cycle; None is the learner's own.
            cycle_mult: Each cycle is so many times longer than the one before.
            cbs: Callbacks of this fit.
            reset_opt: Begin with a new optimiser.
            wd: Weight decay from now on.
            start_epoch: Epochs before it are taken as done.
        """
        whole_number(n_cycles, name="n_cycles", least=1)
        whole_number(cycle_len, name="cycle_len", least=1)
        whole_number(cycle_mult, name="cycle_mult", least=1)
        n_epoch = cycle_len * sum(cycle_mult**cycle for cycle in range(n_cycles))
        schedule = cosine_restarts(
            n_cycles,
            rates=self._rates(lr_max),
            cycle_steps=self._num_steps(n_epoch) // n_epoch * cycle_len,
            cycle_mult=cycle_mult,
        )
        self.run(
            schedule,
            n_epoch=n_epoch,
            stage="warm restarts",
            cbs=cbs,
            wd=wd,
            reset_opt=reset_opt,
            start_epoch=start_epoch,
        )

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
            epochs: Passes over the training pictures with everything trained.
            base_lr: Peak rate of the head in the frozen phase; half of it afterwards.
            freeze_epochs: Passes with the body frozen.
            lr_mult: The earliest layers train at a rate so many times lower than the head.
            pct_start: Part of the second cycle that rises.
            div: The second cycle starts at its peak rate / div.
            lr_max: Not for this method, whose rates follow from ``base_lr``; refused.
            div_final: Both cycles end at the peak rate / div_final.
            wd: Weight decay from now on.
            moms: Momentum at the start, the peak and the end; None is the learner's own.
            cbs: Callbacks of both phases.
            reset_opt: Begin the second phase with a new optimiser; the first always does.
        """
        if lr_max is not None:
            raise ConfigError(
                f"fine_tune has its rates from base_lr and lr_mult. Received: lr_max={lr_max!r}. Give base_lr, or freeze, "
                "fit_one_cycle(1, lr_max), unfreeze and fit_one_cycle(n, lr_max) yourself."
            )
        if not lr_mult > 0:
            raise ConfigError(f"lr_mult is positive. Received: {lr_mult}")
        # Both before the first step: a bad number of the second would otherwise be found after the first was trained.
        frozen = self._cycle(freeze_epochs, slice(base_lr), 25.0, div_final, 0.99, moms)
        rates = slice(base_lr / 2 / lr_mult, base_lr / 2)
        unfrozen = self._cycle(epochs, rates, div, div_final, pct_start, moms)
        self.freeze()
        self.run(frozen, n_epoch=freeze_epochs, stage="frozen", cbs=cbs, wd=wd)
        self.unfreeze()
        self.run(unfrozen, n_epoch=epochs, stage="unfrozen", cbs=cbs, reset_opt=reset_opt)

    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_it: int = 100,
        stop_div: bool = True,
        show_plot: bool = True,
        suggest_funcs: Suggestion | Sequence[Suggestion] | None = DEFAULT_SUGGESTIONS,
    ) -> SuggestedLRs | None:
        """Raise the learning rate step by step and see where the loss falls; the learner is left as it was.

        Smith, "Cyclical learning rates for training neural networks", 2017 (arXiv 1506.01186).

        Args:
            start_lr: Rate of the first step.
            end_lr: Rate that the last step comes close to.
            num_it: Steps.
            stop_div: Stop when the loss is several times its best.
            show_plot: Draw the loss against the rate, with the suggestions.
            suggest_funcs: ``minimum``, ``steep``, ``valley``, ``slide``, ``robust`` (three runs), or functions of the same form;
                None for the plot alone. Without it ``valley`` is shown and unpacking gives (minimum, steep), as it used to.

        Returns:
            The suggestions; None if none were asked for.
        """
        from vizsla.train.lr_finder import find_learning_rate, plot_finder

        curve = find_learning_rate(
            self,
            start_lr=start_lr,
            end_lr=end_lr,
            num_it=num_it,
            stop_div=stop_div,
            num_runs=runs_needed(suggest_funcs),
        )
        suggestions = None if suggest_funcs is None else suggest(curve, suggest_funcs)
        if show_plot:
            plot_finder(curve, suggestions)
        if suggestions is not None and suggestions.note:
            self.display.line(suggestions.note)
        return suggestions

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
