"""The same training task in vizsla and in fastai: same files, split, weights, sizes, batch size and augmentation.

fastai is handed vizsla's files and split, since it lists folders in the order of the file system. ``measured`` runs a task in its
own process.
"""

from __future__ import annotations

import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from io import StringIO
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.measure import Figures, cpu_seconds, in_own_process

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from vizsla import Callback, DataLoaders, Learner
    from vizsla.models import Classifier
    from vizsla.types import ImageTable

ARCHITECTURE = "efficientnet_lite0"
"""The network of all tasks but those of ``gpu.py``."""
NAME_PATTERN = r"^(.+)_\d+\.jpe?g$"
VALID_SHARE = 0.2
MIN_SCALE = 0.75
EARLY_PARTS = 6
"""Normalisation, stem, its norm and three of the seven stages: where vizsla cuts between early and late body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A training task.

    Attributes:
        folder: Has ``train`` and ``valid`` with one folder per class in each; or one folder per class, or images called
            ``class_number.jpg`` at any depth, of which a random fifth is held out.
        epochs: Unfrozen epochs of ``fine_tune``.
        freeze_epochs: Frozen ones before them.
        size: Side of the images that the network sees.
        presize: Side of the images before augmentation.
        batch_size: Images per step.
        seed: Of split, order, augmentation, head and dropout.
        workers: Threads of vizsla, processes of fastai; "auto" is each library's own default.
        groups: Parameter groups of fastai: 2 (body and head) is its default for networks of timm, 3 are cut as vizsla's.
        augment: Whether training images are augmented; without, images have ``size`` from the start.
        arch: ``efficientnet_lite0`` with its weights, or a network of torchvision with random ones.
        device: Where it trains.
    """

    folder: str
    epochs: int = 2
    freeze_epochs: int = 1
    size: int = 128
    presize: int = 160
    batch_size: int = 32
    seed: int = 0
    workers: int | str = "auto"
    groups: int = 2
    augment: bool = True
    arch: str = ARCHITECTURE
    device: str = "cpu"


@dataclass(kw_only=True, slots=True)
class EpochLog:
    """What each epoch gave and took.

    Attributes:
        device: Where the work is done.
        values: ``[train_loss, valid_loss, error]`` of each epoch.
        seconds: Of each, validation included.
        train_seconds: Of each, without validation.
        epoch_cpu_seconds: Of each, of this process and of the child processes that ended in it, all cores together.
        ends: When each was validated, in seconds since 1970.
        helped_seconds: Time that the process spent on being handed another library's split.
    """

    device: str = "cpu"
    values: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    epoch_cpu_seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    helped_seconds: float = 0.0
    _started: float = 0.0
    _cpu_started: float = 0.0
    _trained: float = 0.0

    def wait(self) -> None:
        """Wait until a CUDA device has done its work; a processor has when a call returns."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()

    def start(self) -> None:
        """An epoch begins."""
        self.wait()
        self._cpu_started = cpu_seconds()
        self._started = time.perf_counter()

    def trained(self) -> None:
        """Its steps are done."""
        self.wait()
        self._trained = time.perf_counter()

    def end(self, values: list[float]) -> None:
        """It was validated."""
        self.wait()
        self.values.append([float(value) for value in values])
        self.seconds.append(time.perf_counter() - self._started)
        self.train_seconds.append(self._trained - self._started)
        self.epoch_cpu_seconds.append(cpu_seconds() - self._cpu_started)
        self.ends.append(time.time())

    def of_vizsla(self) -> Callback:
        """Return a callback of vizsla that keeps this log."""
        from vizsla import Callback

        log = self

        class Watch(Callback):
            """Notes times and values."""

            order = -100

            def before_epoch(self, fit: Any) -> None:
                del fit
                log.start()

            def before_validate(self, fit: Any) -> None:
                del fit
                log.trained()

            def after_epoch(self, fit: Any) -> None:
                log.end(list(fit.values.values()))

        return Watch()

    def of_fastai(self) -> Any:
        """Return a callback of fastai that keeps this log."""
        from fastai.vision.all import Callback

        log = self

        class Watch(Callback):
            """Notes times and values."""

            order = 90  # after the recorder

            def before_epoch(self) -> None:
                log.start()

            def after_train(self) -> None:
                log.trained()

            def after_epoch(self) -> None:
                log.end(list(self.learn.recorder.values[-1]))

        return Watch()


# --- vizsla ----------------------------------------------------------------------------------------------------------


def vizsla_loaders(setting: Setting) -> DataLoaders:
    """Return vizsla's loaders."""
    from vizsla import ImageDataLoaders, Resize, aug_transforms, get_image_files

    folder = Path(setting.folder)
    augmented = aug_transforms(size=setting.size, min_scale=MIN_SCALE)
    options: dict[str, Any] = {
        "item_tfms": Resize(setting.presize if setting.augment else setting.size),
        "batch_tfms": augmented if setting.augment else None,
        "bs": setting.batch_size,
        "seed": setting.seed,
        "num_workers": setting.workers,
        "device": setting.device,
    }
    if (folder / "train").is_dir():
        return ImageDataLoaders.from_folder(folder, **options)
    options["valid_pct"] = VALID_SHARE
    if setting.arch != ARCHITECTURE:
        return ImageDataLoaders.from_folder(folder, **options)
    return ImageDataLoaders.from_name_re(folder, get_image_files(folder), NAME_PATTERN, **options)


def vizsla_learner(setting: Setting, *, precision: str = "auto") -> Learner:
    """Return vizsla's learner, its body frozen."""
    from vizsla import error_rate, vision_learner

    ours = setting.arch == ARCHITECTURE
    return vision_learner(
        vizsla_loaders(setting),
        setting.arch if ours else f"torchvision:{setting.arch}",
        pretrained=ours,
        metrics=error_rate,
        precision=precision,
        quiet=True,
    )


def train_vizsla(
    setting: Setting, *, precision: str = "auto", cuda_graphs: bool | None = None
) -> EpochLog:
    """Fine-tune with vizsla; ``cuda_graphs`` as in ``Trainer``."""
    log = EpochLog(device=setting.device)
    learn = vizsla_learner(setting, precision=precision)
    learn.cuda_graphs = cuda_graphs
    learn.fine_tune(setting.epochs, freeze_epochs=setting.freeze_epochs, cbs=log.of_vizsla())
    return log


def run_model_alone(setting: Setting) -> EpochLog:
    """Go forward and backward as often as ``fine_tune`` does, on one ready batch; on a CUDA device whole steps, from graphs.

    The frozen epochs come first, as there; the validation is forward only, in batches of the same sizes.
    """
    from torch import nn

    from vizsla.infer import compute_logits
    from vizsla.machine import keep_freed_memory
    from vizsla.models import evaluation_mode
    from vizsla.train import TrainingStep

    keep_freed_memory()
    learn = vizsla_learner(setting)
    classifier = cast("Classifier", learn.model)
    batch = next(learn.dls.train.batches())
    valid_sizes = [len(rows) for rows in learn.dls.valid.rows.split(learn.dls.valid.bs)]
    log = EpochLog(device=setting.device)
    captured: TrainingStep | None = None

    def take_step() -> None:
        if captured is not None:
            captured(batch)
            return
        nn.functional.cross_entropy(learn.model(batch.images), batch.targets).backward()
        for parameter in learn.model.parameters():
            parameter.grad = None

    for epoch in range(setting.freeze_epochs + setting.epochs):
        (learn.freeze if epoch < setting.freeze_epochs else learn.unfreeze)()
        if setting.device != "cpu" and epoch in (0, setting.freeze_epochs):
            learn.create_opt()
            captured = TrainingStep(
                learn.model,
                loss_function=learn.loss_func,
                optimiser=cast("torch.optim.Optimizer", learn.opt),
                precision=learn.precision,
                captured=True,
            )
        learn.training_mode()
        if captured is not None:
            captured.refresh()
        log.start()
        for _ in range(len(learn.dls.train)):
            take_step()
        log.trained()
        with evaluation_mode(learn.model):
            for size in valid_sizes:
                compute_logits(classifier, batch.images[:size], precision=learn.precision)
        log.end([])
    return log


def run_quick_start(setting: Setting) -> EpochLog:
    """Fit a head on features that are computed once, as lesson one begins; the first time is that of the features."""
    import timm  # noqa: F401 (imported with the network otherwise, while the clock runs)

    from vizsla.classic import (
        Callback,
        ConvLearner,
        ImageClassifierData,
        efficientnet_lite0,
        tfms_from_model,
    )

    log = EpochLog()

    class Watch(Callback):
        """Notes times and values."""

        def on_train_begin(self) -> None:
            log.start()

        def on_epoch_end(self, metrics: list[float]) -> None:
            log.trained()
            log.end([nan, metrics[0], 1 - metrics[1]])
            log.start()

    log.start()
    data = ImageClassifierData.from_paths(
        setting.folder,
        bs=setting.batch_size,
        tfms=tfms_from_model(efficientnet_lite0, setting.size),
        num_workers=2 if isinstance(setting.workers, str) else setting.workers,
    )
    learn = ConvLearner.pretrained(efficientnet_lite0, data, precompute=True)
    log.trained()
    log.end([])
    with redirect_stdout(StringIO()):
        learn.fit(0.01, setting.epochs, callbacks=[Watch()])
    return log


def train_recipe(setting: Setting) -> EpochLog:
    """Run what ``vizsla train --epochs N`` runs, with its defaults for everything but the setting.

    The last values are those of the state that is kept, the last end is the end of the recipe.
    """
    from vizsla import TrainConfig, train_classifier
    from vizsla.train import Display

    config = TrainConfig(
        epochs=setting.epochs,
        size=setting.size,
        presize=setting.presize,
        batch_size=setting.batch_size,
        seed=setting.seed,
        num_workers=cast("Any", setting.workers),
        device="cpu",
    )
    table = vizsla_loaders(setting).table
    run = train_classifier(table, config=config, display=Display(quiet=True))
    log = EpochLog()
    for point in run.history:
        error = None if point.accuracy is None else 1 - point.accuracy
        values = (point.train_loss, point.valid_loss, error)
        log.values.append([nan if value is None else value for value in values])
        log.seconds.append(point.seconds)
        log.ends.append(nan)
    kept = run.predictions
    error = 1 - float(kept.correct.float().mean())
    log.values.append([nan, float(kept.losses.mean()), error])
    log.ends.append(time.time())
    return log


# --- fastai ----------------------------------------------------------------------------------------------------------


def lite0(pretrained: bool = True) -> nn.Sequential:
    """Return the network as fastai wants it: normalisation and body, a pooling layer (fastai cuts before it), a placeholder classifier."""
    import torch
    from torch import nn

    from vizsla.models import build_backbone

    class Normalise(nn.Module):
        """Normalises images with values 0-1."""

        def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Return them normalised."""
            return (images - self.mean) / self.std

    backbone = build_backbone(ARCHITECTURE, pretrained=pretrained)
    body = cast("Any", backbone.network)
    normalised = Normalise(backbone.preprocessing.mean, backbone.preprocessing.std)
    layers = [body.conv_stem, body.bn1, *body.blocks, body.conv_head, body.bn2]
    return nn.Sequential(nn.Sequential(normalised, *layers), nn.AdaptiveAvgPool2d(1), nn.Identity())


def fastai_loaders(setting: Setting, table: ImageTable) -> Any:
    """Return fastai's loaders of the images of vizsla's table with the same split."""
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Resize,
        aug_transforms,
        defaults,
    )

    targets = table.targets.tolist()
    labels = {path: table.vocab[one] for path, one in zip(table.paths, targets, strict=True)}
    augmented = aug_transforms(size=setting.size, min_scale=MIN_SCALE)

    def label_of(path: Path) -> str:
        return labels[path]

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(table.vocab))),
        get_y=label_of,
        splitter=IndexSplitter(table.valid_rows.tolist()),
        item_tfms=Resize(setting.presize if setting.augment else setting.size),
        batch_tfms=augmented if setting.augment else None,
    )
    workers = defaults.cpus if setting.workers == "auto" else setting.workers
    return block.dataloaders(
        list(table.paths), bs=setting.batch_size, num_workers=workers, device=setting.device
    )


def fastai_learner(setting: Setting, table: ImageTable) -> Any:
    """Return fastai's learner with the same weights, its body frozen."""
    from fastai.vision.all import L, error_rate, params, set_seed, vision_learner

    def three_groups(model: Any) -> Any:
        body = model[0][0]
        return L(body[:EARLY_PARTS], body[EARLY_PARTS:], model[1:]).map(params)

    set_seed(setting.seed)
    ours = setting.arch == ARCHITECTURE
    learn = vision_learner(
        fastai_loaders(setting, table),
        lite0 if ours else getattr(import_module("torchvision.models"), setting.arch),
        pretrained=ours,
        metrics=error_rate,
        splitter=three_groups if setting.groups == 3 else None,
        path=Path.cwd(),
    )
    set_seed(setting.seed)
    return learn


def train_fastai(setting: Setting, *, half: bool = False) -> EpochLog:
    """Fine-tune with fastai, ``half`` with ``to_fp16()``; without unfrozen epochs, train the head alone."""
    import fastai.vision.all  # noqa: F401 (not part of what the process is helped with)

    log = EpochLog(device=setting.device)
    started = time.perf_counter()
    table = vizsla_loaders(setting).table
    log.helped_seconds = time.perf_counter() - started
    learn = fastai_learner(setting, table)
    learn = learn.to_fp16() if half else learn
    with learn.no_bar(), learn.no_logging():
        watch = log.of_fastai()
        if setting.epochs:
            learn.fine_tune(setting.epochs, freeze_epochs=setting.freeze_epochs, cbs=watch)
        else:
            learn.fit_one_cycle(setting.freeze_epochs, cbs=watch)
    return log


# --- A process per measurement ---------------------------------------------------------------------------------------

TRAINERS: dict[str, Callable[[Setting], EpochLog]] = {
    "vizsla": train_vizsla,
    "vizsla in bf16": partial(train_vizsla, precision="bf16"),
    "vizsla, no graphs": partial(train_vizsla, cuda_graphs=False),
    "fastai": train_fastai,
    "fastai fp16": partial(train_fastai, half=True),
    "network alone": run_model_alone,
    "recipe": train_recipe,
    "quick start": run_quick_start,
}


def measured(kind: str, setting: Setting) -> Figures:
    """Run one of ``TRAINERS`` in its own process, and return what ``train`` and ``in_own_process`` do.

    ``ends`` are in seconds since the process started, without what it spent on being handed another library's split.
    """
    figures = in_own_process("peer:train", kind=kind, setting=asdict(setting))
    not_its_own = figures["began"] + figures.pop("helped_seconds")
    return figures | {"ends": [moment - not_its_own for moment in figures["ends"]]}


def train(kind: str, setting: dict[str, Any]) -> Figures:
    """Train in this process and return the figures: those of ``EpochLog``, processor time, and CUDA memory."""
    log = TRAINERS[kind](Setting(**setting))
    figures = {name: value for name, value in asdict(log).items() if not name.startswith("_")}
    figures |= {"cpu_seconds": cpu_seconds(), "frozen": setting["freeze_epochs"]}
    if log.device != "cpu":
        import torch

        figures["device_bytes"] = torch.cuda.max_memory_reserved()
    return figures
