"""Put a model into a repository of the Hugging Face hub, with a page that describes it; and open one from there.

The repository holds ``model.safetensors`` and ``README.md``. Nothing else is ever fetched from one: a safetensors file with
our manifest cannot run anything, which cannot be said of most other files there.
"""

from __future__ import annotations

import http.client
import math
import re
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vizsla.errors import ConfigError, ModelFileError, OutputError
from vizsla.model_file.bundle import read_manifest
from vizsla.models.weights import hub_from_environment
from vizsla.predict.predictor import Predictor
from vizsla.text import first_line, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.evaluate.metrics import Metric
    from vizsla.model_file.manifest import Manifest

MODEL_NAME = "model.safetensors"
"""The one file that is fetched from a repository."""

# huggingface_hub tries all but the creation of a repository again by itself.
_WAITS_SECONDS = (0.5, 2.0)
_LOG_IN = "Log in with `hf auth login`, set HF_TOKEN, or pass token=...; writing needs a token with the right to write."
_MOST_CLASSES = 200
_HEAD = """---
library_name: vizsla
pipeline_tag: image-classification
tags:
- vizsla
- image-classification
---
"""
_TASKS = {
    "category": "Says which one of {count} classes an image shows.",
    "multi_category": "Says which of {count} classes an image shows; any number of them.",
    "regression": "Predicts {count} numbers of an image.",
}


@runtime_checkable
class Exports(Protocol):
    """What can write itself as a model file, such as a ``Learner``."""

    def export(self, fname: Path | str) -> Path:
        """Write a model file and return its path."""
        ...


def push_to_hub(
    model: Path | str | Predictor | Exports,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Put a model into a repository of the Hugging Face hub, with a model card made from its manifest.

    Args:
        model: A model file; a predictor that was loaded from one; or a learner, which is exported first.
        repo_id: ``"name"`` or ``"owner/name"``; made if there is none.
        private: Whether a new repository is seen by its owner only.
        token: Of the hub; None for the one that huggingface_hub knows (``hf auth login``, ``HF_TOKEN``).
        endpoint: Address of another hub; None for the usual one or ``HF_ENDPOINT``.

    Returns:
        The address of the repository.

    Raises:
        ModelFileError: The model file cannot be used; it is opened before anything is sent.
        ConfigError: ``repo_id`` is no name of a repository, or the predictor was not loaded from a file.
        OutputError: The hub cannot be reached, or refuses; nothing was changed there, or nothing but an empty repository made.

    Examples:
        >>> push_to_hub("runs/pets/model.safetensors", "me/pets")
        'https://huggingface.co/me/pets'
    """
    if isinstance(model, Predictor):
        if model.path is None:
            raise ConfigError(
                "This predictor was not loaded from a model file, so there is no file to push. Write one with save_bundle, "
                "or push the file or the learner."
            )
        return _push(model.path, repo_id, private=private, token=token, endpoint=endpoint)
    if isinstance(model, Exports):
        with tempfile.TemporaryDirectory() as folder:
            path = model.export(Path(folder) / MODEL_NAME)
            return _push(path, repo_id, private=private, token=token, endpoint=endpoint)
    return _push(Path(model), repo_id, private=private, token=token, endpoint=endpoint)


def from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Predictor:
    """Open the model of a repository of the Hugging Face hub; it is fetched once and kept in the hub's cache.

    Args:
        repo_id: ``"owner/name"``.
        revision: Branch, tag or commit; None for the newest. Only a commit names the same bytes for ever.
        token: Of the hub, for private repositories; None for the one that huggingface_hub knows.
        endpoint: Address of another hub; None for the usual one or ``HF_ENDPOINT``.

    Raises:
        ConfigError: ``repo_id`` is no name of a repository.
        ModelFileError: There is no such repository, revision or file, the hub cannot be reached and no copy is here, or
            what was fetched is no model file of ours.

    Examples:
        >>> from_hub("me/pets").predict("photo.jpg").label
        'beagle'
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    hub = hub_from_environment()
    address = endpoint or hub.endpoint

    def fetch() -> str:
        url = hf_hub_url(repo_id, MODEL_NAME, revision=revision, endpoint=address)
        return hf_hub_download(
            repo_id,
            MODEL_NAME,
            revision=revision,
            token=token,
            endpoint=address,
            cache_dir=hub.hub_cache,
            # On its own it tries for 20 seconds to reach a server that is not there.
            local_files_only=not _answers(url, timeout_seconds=hub.timeout_seconds),
        )

    where = repo_id if revision is None else f"{repo_id} at revision {revision!r}"
    what = f"The model {where} cannot be fetched from {address}"
    return Predictor.load(_asked(fetch, problem=ModelFileError, what=what))


def _push(
    path: Path, repo_id: str, *, private: bool, token: str | None, endpoint: str | None
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    card = model_card(read_manifest(path), repo_id=repo_id)
    address = endpoint or hub_from_environment().endpoint
    api = HfApi(endpoint=address, token=token)
    what = f"The model was not pushed to {repo_id} at {address}"

    def create() -> str:
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id

    full_name = _asked(create, problem=OutputError, what=what, waits=_WAITS_SECONDS)

    def commit() -> object:
        # New operations each time: huggingface_hub marks those that it has sent.
        files = [
            CommitOperationAdd(path_in_repo=MODEL_NAME, path_or_fileobj=path),
            CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode()),
        ]
        return api.create_commit(full_name, files, commit_message="Model by vizsla")

    _asked(commit, problem=OutputError, what=what)
    return f"{address}/{full_name}"


def _answers(url: str, *, timeout_seconds: float) -> bool:
    """Whether somebody answers at an address, whatever the answer."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "vizsla"})
    try:
        urllib.request.urlopen(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return True


def _asked(
    question: Callable[[], Any],
    *,
    problem: type[ModelFileError | OutputError],
    what: str,
    waits: tuple[float, ...] = (),
) -> Any:
    """Return what the hub answers, or raise ``problem``, whose message begins with ``what`` and names the way out.

    ``waits`` are seconds before each further try where nobody answered or the server said that it cannot now.
    """
    from huggingface_hub.errors import HFValidationError

    for wait in (*waits, None):
        try:
            return question()
        except HFValidationError as error:
            raise ConfigError(
                f"This is no name of a repository: {_sentence(error)} Give 'owner/name'."
            ) from error
        except Exception as error:
            # Exception, because it raises the errors of whichever HTTP library it is built on.
            status = _status(error)
            if wait is None or not (status is None or status == 429 or status >= 500):
                raise problem(f"{what}: {_reason(error, status=status)}") from error
            time.sleep(wait)
    return None


def _reason(error: Exception, *, status: int | None) -> str:
    """Return what is wrong and what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"its owner admits people one by one. Ask for access on its page. {_LOG_IN}"
    if status == 401:
        return f"the hub does not know you, or there is no such repository (401). Check the name. {_LOG_IN}"
    if status == 403:
        return f"your token may not do this (403). {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision. Give a branch, tag or commit, or leave revision out."
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return "no copy is on this machine and the hub does not answer. Check the network, and HF_HUB_OFFLINE."
    if isinstance(error, EntryNotFoundError):
        return f"it has no file {MODEL_NAME}. Push one with vizsla, or choose another repository."
    if status == 404:
        return (
            f"there is no such repository, or it is private (404). Check owner and name. {_LOG_IN}"
        )
    if status is not None:
        return f"the hub answered {status}: {_sentence(error)} Try again later."
    return f"{_sentence(error)} Check the network and the address."


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error of huggingface_hub, or of the one that it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return None


def _sentence(error: BaseException) -> str:
    text = first_line(error)
    return text if text.endswith(".") else f"{text}."


def model_card(manifest: Manifest, *, repo_id: str) -> str:
    """Return the text of ``README.md``. Texts of the manifest may come from anywhere and are not shown as Markdown."""
    task = _TASKS[manifest.task].format(count=len(manifest.vocab))
    size = manifest.size
    sees = "images of their own size" if size is None else f"{size[0]} x {size[1]} pixels"
    parts = [
        _HEAD,
        f"# {_text(repo_id.rpartition('/')[2])}\n",
        f"{task} The network is {_code(manifest.backbone.name)} of {manifest.backbone.source} and sees {sees}.\n",
        _use(repo_id),
        _quality(manifest.metrics),
        _honesty(manifest),
        _classes(manifest),
        _origin(manifest),
        _caveats(manifest),
    ]
    if manifest.notes:
        parts.append(f"## Notes\n\n{_text(manifest.notes)}\n")
    return "\n".join(parts)


def _use(repo_id: str) -> str:
    return (
        "## Use\n\n```\npip install vizsla\n```\n\n```python\n"
        "from vizsla import from_hub\n\n"
        f'predictor = from_hub("{repo_id}")\n'
        'print(predictor.predict("photo.jpg").label)\n```\n\n'
        "The file holds weights and plain data; opening it runs no code of anybody's.\n"
    )


def _quality(metrics: tuple[Metric, ...]) -> str:
    if not metrics:
        return "## How good it is\n\nNothing was measured when the file was written.\n"
    rows = [
        f"| {_text(metric.name)} | {_number(metric.value)} | {_number(metric.low)} to {_number(metric.high)} "
        f"| {metric.num_pictures:,} |"
        for metric in metrics
    ]
    return (
        "## How good it is\n\nMeasured on validation images, which it was not trained on:\n\n"
        "| measure | value | 95 % interval | images |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _honesty(manifest: Manifest) -> str:
    """Return how far the probabilities are to be trusted."""
    found = manifest.calibration
    if found is None:
        none = "No calibration of its probabilities is recorded.\n"
        return "" if manifest.task == "regression" else none
    return (
        f"Logits are divided by {found.temperature:.3g} before they become probabilities. Expected calibration error on "
        f"{found.num_pictures:,} held-out images: {_number(found.error_before)} before, {_number(found.error_after)} after.\n"
    )


def _classes(manifest: Manifest) -> str:
    title = "Numbers" if manifest.task == "regression" else "Classes"
    return f"## {title}\n\n{joined(list(map(_code, manifest.vocab)), limit=_MOST_CLASSES)}\n"


def _origin(manifest: Manifest) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    fingerprint = _code(manifest.data_fingerprint) if manifest.data_fingerprint else "not known"
    return (
        "## Where it comes from\n\n"
        f"- Training started from: {_text(manifest.backbone.weights)}\n"
        f"- Licence of those weights: {_text(manifest.backbone.licence)}. That of the training images is for their owner to say.\n"
        f"- Fingerprint of images and labels: {fingerprint}\n"
        f"- Fingerprint of the weights: {_code(manifest.tensors_sha256)}\n"
        f"- Written {_text(manifest.created)} by vizsla {_text(manifest.vizsla_version)} ({_text(versions)})\n"
    )


def _caveats(manifest: Manifest) -> str:
    lines = [
        "The numbers above hold for images like those of the validation set: the same sources, cameras and share of "
        "each class. Measure it on images of your own before relying on it.",
        "Class names are those of the people who labelled the images; mistakes of theirs are learnt too.",
    ]
    if manifest.task == "category":
        lines.insert(
            1,
            "An image of something else gets one of the classes all the same, sometimes with a high probability.",
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not known"


def _text(text: str) -> str:
    """Return text on one line in which nothing is Markdown or HTML."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", "".join(filter(str.isprintable, flat)))


def _code(text: str) -> str:
    """Return a name as a code span, also where it has backticks or line breaks."""
    flat = "".join(filter(str.isprintable, " ".join(text.split())))
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{space}{flat or ' '}{space}{fence}"
