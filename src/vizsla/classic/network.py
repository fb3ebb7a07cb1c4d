"""Data and a network in; what a notebook may ask of the network out: its layers, which of them train, its files, its predictions.

``ConvLearner`` adds training to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.classic.models import parameters_of
from vizsla.classic.saving import load_model, save_model
from vizsla.classic.summary import model_summary
from vizsla.classic.workbench import Workbench
from vizsla.errors import ConfigError
from vizsla.infer.run import evaluation_mode
from vizsla.models.groups import freeze_to

if TYPE_CHECKING:
    from collections import OrderedDict

    from numpy.typing import NDArray
    from torch import nn

    from vizsla.classic.data import ImageClassifierData
    from vizsla.classic.loaders import Batches
    from vizsla.classic.models import ConvnetBuilder
    from vizsla.classic.summary import Entry
    from vizsla.models.groups import Group


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
