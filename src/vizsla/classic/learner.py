"""Data and an architecture in; a network that is trained, saved and asked, out: lesson one's learner over the engine's trainer.

A network and loaders in; the features that its head sees of every picture out, from a cache where nothing has changed.

A cache is ``tmp/x_act_<name>_<sz>.npy``, float32 ``(N, nf)``, with a note beside it of what it was made from. It is used again
only if that is the same still: body and weights, preparation, and the pictures themselves, by the digests of their
contents where their dates are not those of the note.

A network and data in; what is being trained, on pictures or on features, and which of its groups train, out.

There are two trainers of the engine: one of the whole network on pictures, one of the head alone on features of the body that
were computed once (``precompute``). Both train the same head.

Data and a network in; what a notebook may ask of the network out: its layers, which of them train, its files, its predictions.

``ConvLearner`` adds training to it.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from vizsla.classic.metrics import usual_loss, usual_metrics
from vizsla.classic.models import (
    ConvnetBuilder,
    load_model,
    model_summary,
    parameters_of,
    save_model,
)
from vizsla.classic.training import (
    BestSaver,
    CallbackBridge,
    ClassicTrainer,
    CycleSaver,
    EndOfFit,
    FitPlan,
    Lengths,
    LossRecorder,
    LRFinder,
    TablePrinter,
    decays_of,
    rates_of,
    returned,
)
from vizsla.errors import ConfigError
from vizsla.files import atomic_write
from vizsla.infer.run import evaluation_mode, extract_features, predict_batches
from vizsla.machine import default_num_workers
from vizsla.models.groups import freeze_to
from vizsla.train.metrics import unique_names
from vizsla.train.optim import build_optimiser
from vizsla.train.schedules import lr_range

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from vizsla.classic.data import Batches, ImageClassifierData
    from vizsla.classic.models import Arch, Entry
    from vizsla.classic.training import Callback
    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.run import NumberFormat
    from vizsla.models.groups import Group
    from vizsla.train.display import Display
    from vizsla.train.optim import OptimiserFactory
    from vizsla.train.schedules import Rates, Schedule
    from vizsla.train.trainer import LossFunction, MetricFunction

FORMAT = 1
"""Of the note; another one is not trusted."""

Note = dict[str, Any]


def cached_features(
    models: ConvnetBuilder,
    loader: Batches,
    *,
    file: Path,
    preparation: str,
    precision: NumberFormat,
    display: Display,
) -> NDArray[np.float32]:
    """Return the features of the pictures of a loader, float32 ``(N, nf)``.

    Args:
        models: Body and pooling are used in evaluation mode.
        loader: Gives the pictures in order.
        file: The cache; made where there is none, replaced where it does not fit.
        preparation: What is done to the pictures, in words.
        precision: Of the body.
        display: Shows how far it is.

    Raises:
        PictureError: A picture cannot be read.
        OutputError: The cache cannot be written.
    """
    files = [loader.table.paths[row] for row in loader.rows.tolist()]
    note: Note = {
        "format": FORMAT,
        "body": models.name,
        "weights": _weights_digest(models.top_model),
        "preparation": preparation,
        "precision": precision,
        "names": [loader.table.shown_path(row) for row in loader.rows.tolist()],
        "dates": _dates(files),
    }
    known = _read(file, note, files=files)
    if known is not None:
        return known
    note["contents"] = _contents(files)
    with display.bar(f"features {file.stem}", total=loader.n) as move:
        found = extract_features(
            models.classifier,
            loader.batches(),
            head=cast("Any", models.classifier.head),
            precision=precision,
            on_progress=move,
        )
    values = found.values[:, 0].float().numpy()
    with atomic_write(file) as temporary, temporary.open("wb") as out:
        np.save(out, values, allow_pickle=False)
    _write_note(file, note)
    return values


def _note_file(file: Path) -> Path:
    return file.with_suffix(".json")


def _write_note(file: Path, note: Note) -> None:
    with atomic_write(_note_file(file)) as temporary:
        temporary.write_text(json.dumps(note), encoding="utf-8")


def _read(file: Path, note: Note, *, files: list[Path]) -> NDArray[np.float32] | None:
    """Return the features of a cache that was made from what the note says, else None."""
    try:
        known: Note = json.loads(_note_file(file).read_text(encoding="utf-8"))
        values: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    dates = known.pop("dates", None)
    contents = known.pop("contents", None)
    same = {key: value for key, value in note.items() if key != "dates"} == known
    if not same or len(values) != len(files):
        return None
    if dates != note["dates"]:
        # A copied or touched folder has other dates; only the contents can tell.
        if contents != _contents(files):
            return None
        _write_note(file, {**note, "contents": contents})
    return values


def _dates(files: list[Path]) -> str:
    """Return a digest of what the file system says of the files; moving or writing one changes it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            facts = os.stat(file)  # noqa: PTH116 (paid for every picture)
            numbers = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        except OSError:
            numbers = ()
        digest.update(repr(numbers).encode())
    return digest.hexdigest()


def _contents(files: list[Path]) -> str:
    """Return a digest of all bytes of the files; a file that cannot be read counts as empty."""

    def one(file: Path) -> bytes:
        try:
            return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
        except OSError:
            return b""

    with ThreadPoolExecutor(max(1, default_num_workers())) as pool:
        return hashlib.blake2b(b"".join(pool.map(one, files)), digest_size=16).hexdigest()


def _weights_digest(body: torch.nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in body.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


DEFAULT_OPTIMISER = partial(torch.optim.SGD, momentum=0.9)


class Workbench:
    """Trainers of one network on one data object.

    Args:
        images: Pictures.
        models: The network.

    Attributes:
        images: As given.
        models: As given.
        features: The same data as features; None until they are computed.
        whole: Trains body and head on pictures.
        head: Trains the head on features; None until they are computed.
        head_only: Whether the latter is in use.
    """

    def __init__(self, images: ImageClassifierData, models: ConvnetBuilder) -> None:
        self.images = images
        self.models = models
        self.features: ImageClassifierData | None = None
        self.whole = self._new_trainer(images, models.classifier)
        self.head: ClassicTrainer | None = None
        self.head_only = False

    @property
    def data(self) -> ImageClassifierData:
        """What is trained on."""
        return self.features if self.head_only and self.features is not None else self.images

    @property
    def trainer(self) -> ClassicTrainer:
        """What trains."""
        return self.head if self.head_only and self.head is not None else self.whole

    def freeze_norms(self, frozen: bool) -> None:
        """Keep the statistics of all norms, or let them move again."""
        for trainer in (self.whole, self.head):
            if trainer is not None:
                trainer.norms_frozen = frozen

    def compute_features(self, folder: Path) -> None:
        """Run the body over all pictures once, or read what it gave from a cache.

        Args:
            folder: Of the cache.

        Raises:
            PictureError: A picture cannot be read.
            OutputError: The cache cannot be written.
        """
        data = self.images
        size = f"{self.models.name}_{data.sz}"

        def of(loader: Batches, name: str) -> NDArray[Any]:
            return cached_features(
                self.models,
                loader,
                file=folder / f"{name}_{size}.npy",
                preparation=repr(data.tfms[1]),
                precision=self.whole.precision,
                display=self.whole.display,
            )

        self.features = data.of_features(
            of(data.fix_dl, "x_act"),
            of(data.val_dl, "x_act_val"),
            None if data.test_dl is None else of(data.test_dl, "x_act_test"),
        )
        self.head = self._new_trainer(self.features, self.models.fc_model)
        self.head.norms_frozen = self.whole.norms_frozen

    def run(
        self,
        schedule: Schedule,
        *,
        n_epoch: int,
        sched: LossRecorder,
        opt_fn: OptimiserFactory | None,
        wds: float | Sequence[float] | None,
        metrics: Sequence[MetricFunction],
        callbacks: Sequence[Callback] | None,
        savers: Sequence[Any] = (),
    ) -> OrderedDict[int, list[float]] | None:
        """Run one fit with a new optimiser, and print a row per epoch.

        Args:
            schedule: Rates of every step.
            n_epoch: Passes over the training items.
            sched: Records it.
            opt_fn: Makes the optimiser; None is SGD with momentum.
            wds: Weight decay, one or one per group.
            metrics: Functions of outputs and targets.
            callbacks: Of the user's.
            savers: Callbacks of the engine that save weights.

        Returns:
            The printed values by epoch; None if a callback ended the fit within an epoch.
        """
        trainer = self.trainer
        trainer.metrics = tuple(metrics)
        trainer.recorder.metric_names = unique_names(metrics)
        trainer.opt = build_optimiser(
            trainer.model,
            trainer.groups,
            opt_func=DEFAULT_OPTIMISER if opt_fn is None else opt_fn,
            weight_decay=decays_of(wds, num_groups=len(trainer.groups)),
            decay_norms_and_biases=True,
        )
        table = TablePrinter()
        cbs = [sched, table, *savers, CallbackBridge(callbacks or (), sched=sched)]
        try:
            trainer.run(schedule, n_epoch=n_epoch, stage="lesson one", cbs=cbs)
        except EndOfFit:
            if not sched.epochs or sched.epochs[-1] < len(sched.lrs):
                return None
        return table.values

    def predictions(self, loader: Batches, *, whole: bool = False, epoch: int = 0) -> Predictions:
        """Return what the network says of the items of a loader.

        Args:
            loader: Of pictures or features, as ``data`` has them.
            whole: Use body and head, whatever is being trained.
            epoch: Another one has other crops, where they are random.
        """
        trainer = self.whole if whole else self.trainer
        model: Any = trainer.model
        return predict_batches(
            model, loader.batches(epoch=epoch), table=loader.table, precision=trainer.precision
        )

    def _new_trainer(self, data: ImageClassifierData, model: nn.Module) -> ClassicTrainer:
        of_head = model is self.models.fc_model

        def split(module: nn.Module) -> list[Group]:
            del module
            return [parameters_of(group) for group in self.models.get_layer_groups(of_head)]

        loaders: Any = data.loaders
        return ClassicTrainer(
            loaders, model, splitter=split, train_bn=False, wd_bn_bias=True, show_table=False
        )


class Network:
    """A network and its data.

    Args:
        data: Pictures.
        models: The network in parts.
        tmp_name: Folder of cached features, in the data's folder.
        models_name: Folder of saved weights, in the data's folder.

    Attributes:
        models: As given.
        tmp_path: Folder of cached features.
        models_path: Folder of saved weights.
    """

    def __init__(
        self,
        data: ImageClassifierData,
        models: ConvnetBuilder,
        *,
        tmp_name: str = "tmp",
        models_name: str = "models",
    ) -> None:
        self.models = models
        self.tmp_path = str(Path(data.path, tmp_name))
        self.models_path = str(Path(data.path, models_name))
        for folder in (self.tmp_path, self.models_path):
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._bench = Workbench(data, models)
        self._num_passes = 0
        self.freeze()

    @property
    def precompute(self) -> bool:
        """Whether the head alone is trained, on features of the body that are computed once."""
        return self._bench.head_only

    @precompute.setter
    def precompute(self, value: bool) -> None:
        if value and self._bench.features is None:
            self._bench.compute_features(Path(self.tmp_path))
        self._bench.head_only = bool(value)

    @property
    def data(self) -> ImageClassifierData:
        """What is trained on: pictures, or features while ``precompute``."""
        return self._bench.data

    @property
    def fc_data(self) -> ImageClassifierData | None:
        """The features; None until they are computed."""
        return self._bench.features

    @property
    def model(self) -> nn.Sequential:
        """What is trained: body and head in one sequence, or the head while ``precompute``."""
        return self.models.fc_model if self.precompute else self.models.model

    @property
    def children(self) -> list[nn.Module]:
        """The layers of the model."""
        return list(self.model)

    def __getitem__(self, index: int) -> nn.Module:
        """Return a layer of the model."""
        return self.children[index]

    def __repr__(self) -> str:
        """Return how the model prints."""
        return repr(self.model)

    def get_layer_groups(self) -> list[list[nn.Module]]:
        """Return the layers in groups; each may have a learning rate of its own."""
        return self.models.get_layer_groups(self.precompute)

    def set_data(self, data: ImageClassifierData, precompute: bool = False) -> None:
        """Take other data of the same classes, and freeze the body.

        Args:
            data: Pictures, of another size too.
            precompute: Compute features of them and train the head alone.
        """
        self._bench = Workbench(data, self.models)
        self.freeze()
        self.precompute = precompute

    def freeze_to(self, n: int) -> None:
        """Let the groups from position ``n`` on train, and no others.

        Args:
            n: Negative numbers count from the end.
        """
        freeze_to(self._groups(), n)

    def freeze(self) -> None:
        """Train the head only."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything; features that were computed once are no longer used."""
        self.precompute = False
        self.freeze_to(0)

    def freeze_all_but(self, n: int) -> None:
        """Train one group only.

        Args:
            n: Its position.
        """
        groups = self._groups()
        for group in groups:
            for parameter in group:
                parameter.requires_grad_(group is groups[n])

    def bn_freeze(self, do_freeze: bool) -> None:
        """Keep the statistics of all norms as they are from now on, or let them move again.

        Args:
            do_freeze: Whether to keep them.
        """
        self._bench.freeze_norms(do_freeze)

    def save(self, name: str) -> None:
        """Write the weights of body and head to ``models/NAME.safetensors``.

        Args:
            name: Of the file, without suffix.

        Raises:
            OutputError: It cannot be written.
        """
        save_model(self.models, Path(self.models_path, name))

    def load(self, name: str) -> None:
        """Read weights that ``save`` wrote, or those of a file ``NAME.h5`` of the original library.

        Args:
            name: Of the file, without suffix.

        Raises:
            FileNotFoundError: There is no such file.
            WeightsError: It is of another network.
        """
        load_model(self.models, Path(self.models_path, name))

    def save_cycle(self, name: str, cycle: int) -> None:
        """Save as ``NAME_cyc_0`` and so on.

        Args:
            name: First part of the name.
            cycle: Number of the cycle.
        """
        self.save(f"{name}_cyc_{cycle}")

    def load_cycle(self, name: str, cycle: int) -> None:
        """Load what ``save_cycle`` wrote.

        Args:
            name: First part of the name.
            cycle: Number of the cycle.
        """
        self.load(f"{name}_cyc_{cycle}")

    def predict(self, is_test: bool = False) -> NDArray[np.float32]:
        """Return the outputs for the validation pictures, in their order: log-probabilities, float32 ``(N, C)``.

        With several labels per picture they are probabilities.

        Args:
            is_test: Take the test pictures instead.

        Raises:
            ValueError: There are none.
        """
        return self.predict_with_targs(is_test)[0]

    def predict_with_targs(self, is_test: bool = False) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return outputs as ``predict`` does, and targets ``(N,)``.

        Args:
            is_test: Take the test pictures instead.

        Raises:
            ValueError: There are none.
        """
        loader = _test_or_valid(self.data.test_dl if is_test else self.data.val_dl)
        predictions = self._bench.predictions(loader)
        return predictions.logits.numpy(), predictions.targets.numpy()

    def predict_dl(self, dl: Batches) -> NDArray[np.float32]:
        """Return the outputs for the items of a loader.

        Args:
            dl: One of the learner's data.
        """
        return self._bench.predictions(dl).logits.numpy()

    def predict_array(self, arr: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs for normalised pictures.

        Args:
            arr: ``(N, 3, H, W)`` as transforms make them; or features ``(N, nf)``.
        """
        model = self.models.model if np.ndim(arr) == 4 else self.models.fc_model
        device = next(model.parameters()).device
        with evaluation_mode(model), torch.inference_mode():
            return model(torch.as_tensor(arr, dtype=torch.float32, device=device)).cpu().numpy()

    def TTA(  # noqa: N802 (the notebooks' name for it)
        self, n_aug: int = 4, is_test: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the outputs for the pictures as they are and for augmented versions of them.

        Args:
            n_aug: Number of augmented versions; for every four of them the plain outputs are repeated once, in front.
            is_test: Take the test pictures instead of the validation pictures.

        Returns:
            float32 ``(ceil(n_aug / 4) + n_aug, N, C)``, to be averaged as probabilities; and targets ``(N,)``.

        Raises:
            ValueError: There are no test pictures.
        """
        data, bench = self._bench.images, self._bench
        plain = _test_or_valid(data.test_dl if is_test else data.val_dl)
        augmented = _test_or_valid(data.test_aug_dl if is_test else data.aug_dl)
        first = bench.predictions(plain, whole=True)
        outputs = [first.logits.numpy()] * -(-n_aug // 4)
        with bench.whole.display.bar("augmented", total=n_aug, unit="passes") as move:
            for number in range(n_aug):
                epoch = self._num_passes + number
                found = bench.predictions(augmented, whole=True, epoch=epoch)
                outputs.append(found.logits.numpy())
                move(number + 1)
        self._num_passes += n_aug
        return np.stack(outputs), first.targets.numpy()

    def summary(self) -> OrderedDict[str, Entry]:
        """Return what each layer of body and head takes and gives; nothing changes by it."""
        sz = self._bench.images.sz
        return model_summary(self.models.model, (3, sz, sz))

    def _groups(self) -> list[Group]:
        return [parameters_of(group) for group in self.get_layer_groups()]


def _test_or_valid(loader: Batches | None) -> Batches:
    if loader is None:
        raise ConfigError("no test set: pass test_name=")
    return loader


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
        try:
            num_steps, start = len(self.data.trn_dl), self._rates(start_lr)
            rates = lr_range(num_steps, start, float(end_lr), linearly=linear)
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
        schedule = lr_range(len(self.data.trn_dl), rates, rates[-1], linearly=True)
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
