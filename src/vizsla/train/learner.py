"""The learner of notebooks, ``vision_learner``: a trainer that also validates, predicts, shows results, saves and exports."""

from __future__ import annotations

import contextlib
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from vizsla.augment.presets import may_mirror
from vizsla.data.table.check import fingerprint
from vizsla.errors import ConfigError, DataError, SuggestsNames
from vizsla.evaluate.calibration import calibrate, calibration_line
from vizsla.evaluate.thresholds import as_thresholds, at_temperature, fit_thresholds
from vizsla.infer.run import (
    Outputs,
    augmented_probabilities,
    compute_outputs,
    mix_with_plain,
    predict_batches,
)
from vizsla.lists import L
from vizsla.model_file.bundle import save_bundle
from vizsla.model_file.final_resize import storable
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import HEAD_DEFAULTS, ConcatPoolHead, HeadOptions, OwnHead
from vizsla.predict.predictor import AnyImage, Prediction, Predictor
from vizsla.seeding import derive_seed
from vizsla.text import first_line
from vizsla.train.callbacks.events import RunningValue
from vizsla.train.checkpoint import load_weights, save_weights
from vizsla.train.distributed import share
from vizsla.train.earlier import EarlierModel, earlier_model, shown_preparation
from vizsla.train.losses import activation_of, per_image, thresholds_of
from vizsla.train.step import resolve_precision
from vizsla.train.trainer import Trainer, loaders_preprocessing
from vizsla.types import DECISION_THRESHOLD, has_class, label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
    from vizsla.evaluate.calibration import Calibration
    from vizsla.evaluate.metrics import Metric
    from vizsla.evaluate.predictions import Predictions
    from vizsla.evaluate.thresholds import FittedThresholds
    from vizsla.infer.run import NumberFormat
    from vizsla.models.names import Architecture
    from vizsla.models.stages import Backbone
    from vizsla.notebook.model_summary import Table
    from vizsla.train.trainer import TrainerOptions


class Learner(SuggestsNames, Trainer):
    """Trains a network, predicts with it, saves it; the arguments are those of ``Trainer``."""

    x, y, xb, yb, pred, loss, loss_grad, smooth_loss = (RunningValue() for _ in range(8))
    epoch, n_epoch, iter, n_iter, train_iter, pct_train = (RunningValue() for _ in range(6))
    training, dl = RunningValue(), RunningValue()

    _checked: tuple[object, Predictions | None, Calibration | None] | None = None
    _thresholds: tuple[float, ...] | None = None  # those of the loss

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of several labels, the probability above which an image has each class; None is 0.5 for all.

        They are ``thresh`` of the loss until others are fitted or set: one number, a number for each class, or numbers by class.
        They apply to the network's own probabilities; ``predict`` and the exported file adjust them for the calibration
        temperature, so that decisions are the same.
        """
        table = self.dls.table
        if self._thresholds is None:
            return thresholds_of(self.loss_func, table=table)
        return as_thresholds(self._thresholds, vocab=table.vocab, task=table.task)

    @thresholds.setter
    def thresholds(self, given: float | Sequence[float] | Mapping[str, float]) -> None:
        table = self.dls.table
        found = as_thresholds(given, vocab=table.vocab, task=table.task, now=self.thresholds)
        self._thresholds = found or (DECISION_THRESHOLD,) * len(table.vocab)

    def fit_thresholds(self, goal: str = "f1") -> FittedThresholds:
        """Fit the thresholds of several labels on the validation images, and use them from now on.

        Args:
            goal: ``"f1"``: the best F1 of each class. ``"precision:0.9"``: the lowest at which that share of the images that get
                the class have it.

        Returns:
            The thresholds, and their gain on images that they were not fitted on. Classes with few images keep 0.5.

        Raises:
            ConfigError: The goal is unknown, or images do not have several labels.
        """
        fitted = fit_thresholds(self._held_out(), goal)
        self.thresholds = fitted.values
        return fitted

    def predictions(self, ds_idx: int = 1, dl: DataLoader | None = None) -> Predictions:
        """Predict the training (0) or validation (1) images, prepared as in validation, or those of another loader.

        Raises:
            ConfigError: ``ds_idx`` is neither.
        """
        return replace(super().predictions(ds_idx, dl), thresholds=self.thresholds)

    def validate(self, ds_idx: int = 1, dl: DataLoader | None = None) -> L[float]:
        """Return the loss and the metrics on a split, as an ``L``.

        Args:
            ds_idx: 0 for training, 1 for validation images; both prepared as in validation.
            dl: Another loader with labels.
        """
        outputs = self.predictions(ds_idx) if dl is None else self._outputs(ds_idx, dl)
        if outputs.targets is None:
            raise ConfigError(
                "These images have no labels, so there is nothing to compare with. Make the loader with with_labels=True."
            )
        return L(self.measure_outputs(outputs.logits, outputs.targets))

    def get_preds(
        self,
        ds_idx: int = 1,
        dl: object | None = None,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        act: Callable[[Tensor], Tensor] | None = None,
        inner: bool = False,  # noqa: ARG002
        reorder: bool = True,  # noqa: ARG002
    ) -> tuple[Tensor | None, ...]:
        """Predict images; all results are on the CPU and in order.

        Args:
            ds_idx: 0 for training, 1 for validation images; both prepared as in validation.
            dl: Other images instead: a loader (``dls.test_dl``), or anything with a length that gives batches, such as
                ``[(images, targets)]``.
            with_input: Put the images first.
            with_decoded: Add the predicted classes (or labels, or numbers).
            with_loss: Add the loss of each image.
            act: Applied to the outputs; None is the activation of the loss (softmax for classes).
            inner: Without effect, as is ``reorder``: nothing is printed, and images are never read out of order.
            reorder: See ``inner``.

        Returns:
            Images if asked for, predictions float32 ``(N, C)``, targets (None without labels), then the additions.

        Raises:
            ConfigError: ``dl`` has no length, or the losses of images without labels were asked for.
        """
        outputs = self._outputs(ds_idx, dl, keep_images=with_input)
        activation = activation_of(self.loss_func) if act is None else act
        results: list[Tensor | None] = [outputs.images] if with_input else []
        results += [activation(outputs.logits), outputs.targets]
        if with_decoded:
            results.append(self._decoded(outputs.logits))
        if with_loss:
            if outputs.targets is None:
                raise ConfigError(
                    "These images have no labels, so they have no loss. Leave out with_loss."
                )
            results.append(per_image(self.loss_func)(outputs.logits, outputs.targets))
        return tuple(results)

    def predict(self, item: AnyImage, with_input: bool = False) -> Prediction | tuple[Any, ...]:
        """Predict one image as the exported model would; the result unpacks as (label, index, probabilities).

        Probabilities are calibrated on the validation images, see ``calibration``; those of ``get_preds`` are the network's own.

        Args:
            item: The image in any form that ``Predictor.predict`` takes; it stays as it is.
            with_input: Return a tuple that begins with the image as the network saw it, float32 ``(3, h, w)``.

        Raises:
            PictureError: The image cannot be read.
        """
        predictor = Predictor(
            self.classifier,
            resize=self.dls.reader.items,
            augmentation=self.dls.augmentation,
            calibration=self.calibration(),
            bit_depth=self.dls.reader.bit_depth,
            thresholds=self._calibrated_thresholds(),
        )
        pixels = predictor.prepare(item)
        (prediction,) = predictor.predict_prepared([pixels])
        if not with_input:
            return prediction
        return (predictor.network_input([pixels])[0].cpu(), *prediction)

    def calibration(self) -> Calibration | None:
        """Return the calibration of the probabilities of ``predict`` and of the file that ``export`` writes.

        It is fitted on the validation images, once for each state of the network: the last epoch has predicted them already;
        after another change the first call predicts them. None if nothing can be fitted, see ``calibrate``, or, with a
        printed line, if the images are gone.
        """
        return self._check()[1]

    def _check(self) -> tuple[Predictions | None, Calibration | None]:
        """Return the predictions on the validation images and their calibration, computed once for each state of the network."""
        key = self.state_key()
        if self._checked is None or self._checked[0] != key:
            try:
                found = self._held_out()
            except DataError as error:
                self._checked = (key, None, None)
                self.display.line(
                    "The validation images cannot be read, so probabilities stay uncalibrated "
                    f"({first_line(error)})."
                )
            else:
                self._checked = (key, found, calibrate(found))
        return self._checked[1:]

    def _calibrated_thresholds(self) -> tuple[float, ...] | None:
        calibration = self.calibration()
        return at_temperature(
            self.thresholds, 1 if calibration is None else calibration.temperature
        )

    def _held_out(self) -> Predictions:
        """Return the present network's predictions on the validation images; other processes need not take part."""
        if self._validated is not None and self._validated[0] == self.state_key():
            return replace(self._validated[1], thresholds=self.thresholds)
        if share()[1] == 1:
            return self.predictions()
        batches, table = self.dls.valid.batches(), self.dls.table
        found = predict_batches(self.classifier, batches, table=table, precision=self.precision)
        return replace(found, thresholds=self.thresholds)

    def tta(
        self,
        ds_idx: int = 1,
        dl: DataLoader | None = None,
        n: int = 4,
        beta: float | None = 0.25,
        use_max: bool = False,
    ) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor | None]:
        """Average predictions over augmented views of each image (test-time augmentation).

        Args:
            ds_idx: 0 for training, 1 for validation images.
            dl: Another loader of vizsla.
            n: Augmented views, with random crops and everything else that training does.
            beta: Weight of the plain image; the views share the rest. None returns both: (views, plain).
            use_max: Take the largest probability of each class instead.

        Returns:
            Probabilities float32 ``(N, C)``, and the targets.
        """
        dl = self.plain_loader(ds_idx) if dl is None else dl
        plain = self._outputs(ds_idx, dl)
        activation = activation_of(self.loss_func)
        augmenting = self.dls.loader_for(dl.rows, training=True, table=dl.table)
        with self.display.bar("augmented views", total=n, unit="views") as move:
            views = augmented_probabilities(
                self.classifier,
                augmenting,
                order=dl.rows,
                activation=activation,
                num_views=n,
                precision=self.precision,
                on_progress=move,
            )
        mixed = mix_with_plain(views, activation(plain.logits), beta=beta, use_max=use_max)
        return mixed, plain.targets

    def show_results(
        self,
        ds_idx: int = 1,
        dl: DataLoader | None = None,
        max_n: int = 9,
        shuffle: bool = True,
        *,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> None:
        """Draw images with label and prediction: green if correct, red if not.

        Args:
            ds_idx: 0 for training, 1 for validation images.
            dl: Another loader of vizsla.
            max_n: Images at most.
            shuffle: Choose images at random, differently at each call; otherwise the first ones.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) of the figure in inches; None is 3 x 3 for each image.

        Raises:
            ConfigError: There is no image to show, or a number is not positive.
        """
        from vizsla.notebook.interpretation import draw_results

        dl = self.plain_loader(ds_idx) if dl is None else dl
        rows, table = dl.rows, dl.table
        if nrows is not None and ncols is not None:
            max_n = min(max_n, nrows * ncols)
        chosen = rows[torch.randperm(len(rows))[:max_n]] if shuffle else rows[:max_n]
        loader = self.dls.loader_for(chosen, table=table)
        outputs = self._outputs(ds_idx, loader, keep_images=True)
        guesses = [
            label_of(one, task=table.task, vocab=table.vocab)
            for one in self._decoded(outputs.logits)
        ]
        labels = [table.label(row) for row in chosen.tolist()]
        if outputs.images is not None:
            pairs = list(zip(labels, guesses, strict=True))
            draw_results(outputs.images, pairs, nrows=nrows, ncols=ncols, figsize=figsize)

    def save(self, file: str | Path, with_opt: bool = True) -> Path:
        """Write weights to ``path/models/FILE.safetensors`` and return that path; ``export`` writes a finished model.

        Args:
            file: Name without a suffix, or a path.
            with_opt: Write the state of the optimiser too.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
        """
        return save_weights(self, self._weights_path(file), with_opt=with_opt)

    def load(
        self,
        file: str | Path,
        device: torch.device | str | None = None,
        with_opt: bool = True,
        strict: bool = True,
    ) -> Learner:
        """Read weights that ``save`` wrote, and return the learner.

        Args:
            file: Name without a suffix, or a path.
            device: Move model and loaders there first; None leaves them.
            with_opt: Read the state of the optimiser too; a warning says so where the file has none that fits.
            strict: Require all weights.

        Raises:
            ModelFileError: There is no such file, or it belongs to another network or other classes.
        """
        if device is not None:
            self.dls.to(device)
            self.model.to(device)
        load_weights(self, self._weights_path(file), with_opt=with_opt, strict=strict)
        return self

    def export(self, fname: Path | str = "model.safetensors") -> Path:
        """Write the model as one safe file, for ``load_learner`` and ``vizsla predict``, and return its path.

        Prints whether its probabilities are calibrated, and if not, why. Calibration and metrics come from the predictions
        of the last epoch, or else from the validation images; without either the file has no metrics.

        Args:
            fname: File to write, in the learner's ``path`` unless it is absolute or names that folder itself; other folders are
                made. Whatever its name, it is the same safe file: ``export.pkl`` is not a pickle.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
            ConfigError: An item transform is your own code, which the file cannot hold, or the network holds something that
                is not a tensor. For a network or head of your own the file has only the weights; open it with
                ``load_learner(file, builder=...)``.
        """
        from vizsla.evaluate.metrics import summarise

        path = Path(fname)
        path = path if path.is_relative_to(self.path) else self.path / path
        resize, augmentation = storable(self.dls.reader.items, self.dls.augmentation)
        held_out, calibration = self._check()
        metrics: Sequence[Metric] = ()
        if held_out is not None and held_out.labelled.any():
            metrics = summarise(replace(held_out, thresholds=self.thresholds))
        try:
            data_fingerprint = fingerprint(self.dls.table)
        except DataError:  # the images are gone
            data_fingerprint = ""
        with contextlib.suppress(OSError):  # save_bundle says why there is no folder
            path.parent.mkdir(parents=True, exist_ok=True)
        written = save_bundle(
            path,
            classifier=self.classifier,
            resize=resize,
            augmentation=augmentation,
            metrics=metrics,
            data_fingerprint=data_fingerprint,
            calibration=calibration,
            bit_depth=self.dls.reader.bit_depth,
            flip=may_mirror(self.dls.augmentation.transforms),
            thresholds=self._calibrated_thresholds(),
        )
        if held_out is not None and self.dls.table.task != "regression":
            self.display.line(calibration_line(calibration))
        if path.suffix != ".safetensors":
            self.display.line(
                f"{written} is a model file of vizsla (safetensors), not a pickle: load_learner and Predictor.load open it."
            )
        return written

    def to_fp16(self) -> Learner:
        """Compute in float16 where that is safe and faster: on CUDA, with scaled losses; a CPU stays in float32."""
        return self._to("fp16")

    def to_bf16(self) -> Learner:
        """Compute in bfloat16 where that is safe."""
        return self._to("bf16")

    def to_fp32(self) -> Learner:
        """Compute in float32."""
        return self._to("fp32")

    def summary(self) -> Table:
        """Return a table of the layers: output shapes, parameters, what trains."""
        from vizsla.notebook.model_summary import summarise_model

        return summarise_model(self)

    @contextmanager
    def no_bar(self) -> Generator[Learner]:
        """Hide progress bars inside the block; tables stay."""
        before, self.display.bars = self.display.bars, False
        try:
            yield self
        finally:
            self.display.bars = before

    no_mbar = no_bar

    @contextmanager
    def no_logging(self) -> Generator[Learner]:
        """Print no table inside the block."""
        before, self.show_table = self.show_table, False
        try:
            yield self
        finally:
            self.show_table = before

    def _to(self, precision: NumberFormat) -> Learner:
        self.precision = resolve_precision(precision, device=self.dls.device)
        return self

    def _outputs(self, ds_idx: int, dl: object | None, *, keep_images: bool = False) -> Outputs:
        dl = self.plain_loader(ds_idx) if dl is None else dl
        return compute_outputs(
            self.classifier, dl, precision=self.precision, keep_images=keep_images
        )

    def _decoded(self, logits: Tensor) -> Tensor:
        if self.dls.table.task == "category":
            return logits.argmax(dim=1)
        if self.dls.table.task == "multi_category":
            return has_class(logits.sigmoid(), self.thresholds)
        return logits

    def _weights_path(self, file: str | Path) -> Path:
        name = Path(file)
        name = name if name.suffix == ".safetensors" else name.with_name(f"{name.name}.safetensors")
        return self.path / self.model_dir / name

    def __repr__(self) -> str:
        from vizsla.notebook.cards import learner_card

        return learner_card(self).text()

    def _repr_html_(self) -> str:
        from vizsla.notebook.cards import learner_html

        return learner_html(self)


def vision_learner(
    dls: DataLoaders,
    arch: Architecture | None = None,
    normalize: bool = True,
    n_out: int | None = None,
    pretrained: bool = True,
    weights: Path | str | None = None,
    *,
    cut: int | None = None,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    ps: float = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    n_in: int = 3,
    **options: Unpack[TrainerOptions],
) -> Learner:
    """Build a learner: a pretrained body, a new head for the classes of the data, the body frozen.

    Args:
        dls: Training and validation loaders; never changed. The preprocessing that belongs to the weights is part of
            the model, so two learners with different networks may share loaders.
        arch: Name of a network (``"efficientnet_lite0"`` needs no download), a function of ``torchvision.models``, or a
            module; None is that of the model in ``weights``.
        normalize: Normalise images as the weights expect. Otherwise they stay 0-1, or follow ``Normalize`` in the loaders.
        n_out: Number of outputs; set by the data, so any other number is refused.
        pretrained: Start from published weights; otherwise from random ones, with nothing frozen.
        weights: A weights file to use instead of the published ones. From a model (a model file, the folder of a run, or
            what ``learn.save`` wrote) the head is kept too: rows of known classes are copied by name, rows of new classes
            start afresh. One line says what was kept, added and dropped; another warns if the loaders prepare images
            differently from how the model was trained.
        cut: Where the body ends, counted in the children of a torchvision network; None is before its own head.
        custom_head: Your own layers in place of the default head: they take the last feature map ``(B, C, h, w)`` and
            return ``(B, n_out)``.
        concat_pool: Pool to maximum and mean instead of the mean alone.
        lin_ftrs: Widths of the hidden layers of the head; None is one of 512.
        ps: Dropout before the last layer of the head; half of it before the others.
        first_bn: Begin the head with batch norm.
        bn_final: End it with one.
        lin_first: Linear layers before norms.
        y_range: Squeeze the outputs between these bounds.
        n_in: Channels of an image: 3, or 1 where the data is of ``PILImageBW``. A network with three gets three equal ones, which is
            the same as the sum of its first weights.
        options: ``loss_func``, ``metrics``, ``cbs``, ``wd`` and all other arguments of a ``Trainer``, by name.

    Returns:
        The learner.

    Raises:
        ConfigError: There is no such network (the message has the nearest names), or an argument cannot work; or ``arch`` is
            another network than that of the model.
        WeightsError: The weights cannot be found.
        ModelFileError: The model in ``weights`` is damaged.

    Examples:
        >>> dls = ImageDataLoaders.from_folder("pets", valid_pct=0.2, item_tfms=Resize(224))
        >>> learn = vision_learner(dls, "efficientnet_lite0", metrics=error_rate)
        >>> learn.fine_tune(2)
    """
    if n_out is not None and n_out != dls.c:
        raise ConfigError(
            f"The data has {dls.c} classes or numbers to predict, and the network needs as many outputs. "
            f"Received: n_out={n_out}. Leave n_out out."
        )
    seed = derive_seed(dls.seed, "model")
    earlier = None if weights is None else earlier_model(weights)
    if earlier is not None:
        backbone = earlier.build_body(arch, cut=cut, seed=seed)
    elif arch is not None:
        backbone = build_backbone(
            arch, pretrained=pretrained, weights_file=weights, seed=seed, cut=cut
        )
    else:
        raise ConfigError(
            "vision_learner needs the name of a network, such as 'efficientnet_lite0', or weights=FILE with a "
            "model file, which names it."
        )
    grey = dls.reader.items.grey
    if n_in not in ((1, 3) if grey else (3,)):
        raise ConfigError(
            f"n_in is 3: images become RGB when they are decoded. Received: {n_in!r}. Leave it out; for grey images use "
            "ImageBlock(PILImageBW)."
        )
    found = backbone.preprocessing if normalize else loaders_preprocessing(dls)
    channels = 3 // len(found.mean)
    backbone.preprocessing = replace(
        found,
        mean=found.mean * channels,
        std=found.std * channels,
        size=backbone.preprocessing.size,
        grey=grey,
    )
    settings = HeadOptions(
        lin_ftrs=lin_ftrs,
        ps=ps,
        concat_pool=concat_pool,
        first_bn=first_bn,
        bn_final=bn_final,
        lin_first=lin_first,
        y_range=y_range,
    )
    is_usual = settings == HEAD_DEFAULTS
    head = None if custom_head is None else _own_head(custom_head, backbone, dls)
    settings["seed"] = seed
    if head is None and earlier is not None and is_usual:
        head = earlier.build_head(backbone, num_classes=dls.c)
    if head is None and len(backbone.parts) > 1:
        raise ConfigError(
            "The default head reads the last feature map of a single network. Received: the joined networks "
            f"{backbone.spec.name!r}. Train them with vizsla train --arch, in Python train_classifier(table, "
            "config=TrainConfig(arch=...)); or give a custom_head."
        )
    if head is None:
        head = ConcatPoolHead(backbone.num_features, dls.c, **settings)
    table = dls.table
    said = [] if earlier is None else _keep_head(earlier, head, dls)
    classifier = Classifier(
        backbone, head, vocab=table.vocab, task=table.task, class_type=table.class_type
    )
    learner = Learner(dls, classifier, **options)
    if pretrained or weights is not None:
        learner.freeze()
    for line in said:
        learner.display.line(line)
    return learner


def _keep_head(earlier: EarlierModel, head: nn.Module, dls: DataLoaders) -> list[str]:
    """Give a head what it can take of an earlier one; return what was kept, and how images were prepared in another way."""
    if earlier.keep_head(head, dls.table):
        lines = earlier.account(dls.table.vocab, what="body and head are kept")
    else:
        lines = earlier.account((), what="the body is kept; the head is new")
    was, now = (
        earlier.preparation,
        shown_preparation(dls.final_size, dls.resize, dls.reader.bit_depth),
    )
    return (
        [*lines, f"The model was trained on {was}; these loaders give {now}."]
        if was not in ("", now)
        else lines
    )


def _own_head(layers: nn.Module, backbone: Backbone, dls: DataLoaders) -> nn.Module:
    """Return a user's layers as a head; one of vizsla's own takes the maps of all stages already."""
    if not isinstance(layers, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(
            "custom_head must be an nn.Module, such as nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
            f"nn.Linear({backbone.num_features}, {dls.c})). Received: {layers!r:.80}"
        )
    return layers if hasattr(layers, "config") else OwnHead(layers)


@wraps(vision_learner)
def cnn_learner(*args: Any, **kwargs: Any) -> Learner:
    """Warn and call ``vision_learner``, which had this name in older notebooks."""
    message = "`cnn_learner` has been renamed to `vision_learner` -- please update your code"
    warnings.warn(message, stacklevel=2)
    return vision_learner(*args, **kwargs)


cnn_learner.__name__ = cnn_learner.__qualname__ = "cnn_learner"
