"""Put a model into a repository of the Hugging Face hub, with a page that describes it; and open one from there.

The repository holds ``model.safetensors`` and ``README.md``. Nothing but the first is ever fetched: a safetensors file with
our manifest cannot run anything, which cannot be said of most other files there.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vizsla.data.images.bit_depth import bit_depth_line
from vizsla.errors import ConfigError, ModelFileError, OutputError
from vizsla.model_file.bundle import read_manifest
from vizsla.models.weights import hub_from_environment
from vizsla.predict.predictor import Predictor
from vizsla.text import first_line, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.model_file.manifest import Manifest
    from vizsla.model_file.rebuild import Builder

MODEL_NAME = "model.safetensors"
"""The one file that is fetched from a repository."""

# huggingface_hub itself retries everything but the creation of a repository.
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
TASKS = {
    "category": "It predicts which of {count} classes an image belongs to.",
    "multi_category": "It predicts which of {count} labels apply to an image; any number may.",
    "regression": "It predicts {count} numbers for an image.",
}


@runtime_checkable
class Exports(Protocol):
    """Something that can write itself as a model file, such as a ``Learner``."""

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
    """Push a model to a repository on the Hugging Face hub, with a model card made from its manifest.

    Args:
        model: A model file; a predictor that was loaded from one; or a learner, which is exported first.
        repo_id: ``"name"`` or ``"owner/name"``; made if there is none.
        private: Whether a new repository is visible only to its owner.
        token: Access token of the hub; None uses the one of huggingface_hub (``hf auth login``, ``HF_TOKEN``).
        endpoint: Address of another hub; None for the usual one or ``HF_ENDPOINT``.

    Returns:
        The address of the repository.

    Raises:
        ModelFileError: The model file cannot be used; it is opened before anything is sent.
        ConfigError: ``repo_id`` is not the name of a repository, or the predictor was not loaded from a file.
        OutputError: The hub cannot be reached or refuses; at most an empty repository was made.

    Examples:
        >>> push_to_hub("runs/pets/model.safetensors", "me/pets")
        'https://huggingface.co/me/pets'
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    address = endpoint or hub_from_environment().endpoint
    api = HfApi(endpoint=address, token=token)
    what = f"The model was not pushed to {repo_id} at {address}"
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, Predictor):
            path = model.path
        elif isinstance(model, Exports):
            path = model.export(Path(folder) / MODEL_NAME)
        else:
            path = Path(model)
        if path is None:
            raise ConfigError(
                "This predictor was not loaded from a model file, so there is no file to push. Write one with save_bundle, "
                "or push the file or the learner."
            )
        card = model_card(read_manifest(path), repo_id=repo_id)

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


def from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    sha256: str | None = None,
    builder: Builder | None = None,
) -> Predictor:
    """Open a model from a repository on the Hugging Face hub; it is downloaded once and kept in the hub's cache.

    Args:
        repo_id: ``"owner/name"``.
        revision: Branch, tag or commit; None for the newest. Only a commit names the same bytes forever.
        token: Of the hub, for private repositories; None for the one that huggingface_hub knows.
        endpoint: Address of another hub; None for the usual one or ``HF_ENDPOINT``.
        sha256: Of the model file, see ``Predictor.load``: whoever can write to the hub can replace what a branch names.
        builder: Makes the parts of the network that are your own, see ``Predictor.load``.

    Raises:
        ConfigError: ``repo_id`` is not the name of a repository.
        ModelFileError: There is no such repository, revision or file; the file has another digest; the hub cannot be reached and no copy is on this
            machine; or what was fetched is not a model file of ours.

    Examples:
        >>> from_hub("me/pets").predict("photo.jpg").label
        'beagle'
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    hub = hub_from_environment()
    address = endpoint or hub.endpoint

    def fetch() -> str:
        url = hf_hub_url(repo_id, MODEL_NAME, revision=revision, endpoint=address)
        is_silent = False
        try:
            # Asked once: a download tries for 20 seconds to reach a server that is not there.
            get_hf_file_metadata(url, token=token, timeout=hub.timeout_seconds)
        except HfHubHTTPError:
            pass  # An answer; the download says what it means.
        except Exception:  # noqa: BLE001 (that of whichever HTTP library it is built on)
            is_silent = True
        return hf_hub_download(
            repo_id,
            MODEL_NAME,
            revision=revision,
            token=token,
            endpoint=address,
            cache_dir=hub.hub_cache,
            local_files_only=is_silent,
        )

    where = repo_id if revision is None else f"{repo_id} at revision {revision!r}"
    what = f"The model {where} cannot be downloaded from {address}"
    path = _asked(fetch, problem=ModelFileError, what=what)
    return Predictor.load(path, sha256=sha256, builder=builder)


def _asked(
    question: Callable[[], Any],
    *,
    problem: type[ModelFileError | OutputError],
    what: str,
    waits: tuple[float, ...] = (),
) -> Any:
    """Return what the hub answers, or raise ``problem``, whose message begins with ``what`` and names the way out.

    ``waits`` are seconds before each further try after no answer or one that may change.
    """
    from huggingface_hub.errors import HFValidationError

    for wait in (*waits, None):
        try:
            return question()
        except HFValidationError as error:
            raise ConfigError(
                f"This is not a valid repository name: {_sentence(error)} Give 'owner/name'."
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

    reasons = (
        (
            isinstance(error, GatedRepoError),
            f"its owner must grant access. Request it on the page of the repository. {_LOG_IN}",
        ),
        (
            status == 401,
            f"you are not logged in, or there is no such repository (401). Check the name. {_LOG_IN}",
        ),
        (status == 403, f"your token does not have this permission (403). {_LOG_IN}"),
        (
            isinstance(error, RevisionNotFoundError),
            "it has no such revision. Give a branch, tag or commit, or leave revision out.",
        ),
        (
            isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError),
            "there is no local copy, and the hub does not answer. Check the network, and HF_HUB_OFFLINE.",
        ),
        (
            isinstance(error, EntryNotFoundError),
            f"it has no file {MODEL_NAME}. Push one with vizsla, or choose another repository.",
        ),
        (
            status == 404,
            f"there is no such repository, or it is private (404). Check owner and name. {_LOG_IN}",
        ),
        (status is not None, f"the hub answered {status}: {_sentence(error)} Try again later."),
    )
    unknown = f"{_sentence(error)} Check the network and the address."
    return next((text for applies, text in reasons if applies), unknown)


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
    size, found, classes = manifest.size, manifest.calibration, manifest.task != "regression"
    sees = "images of their own size" if size is None else f"{size[0]} x {size[1]} pixels"
    calibration = "No calibration of its probabilities is recorded.\n" if classes else ""
    if found is not None:
        calibration = (
            f"Logits are divided by {found.temperature:.3g} before they become probabilities. Expected calibration error on "
            f"{found.num_pictures:,} held-out images: {_number(found.error_before)} before, {_number(found.error_after)} after.\n"
        )
    foreign = ""
    if manifest.task == "category":
        foreign = "- An image of something else still gets one of the classes, sometimes with a high probability.\n"
    depth = ""
    if manifest.bit_depth is not None:
        depth = f"- {bit_depth_line(manifest.bit_depth)}, as in training.\n"
    versions = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    fingerprint = as_code(manifest.data_fingerprint) if manifest.data_fingerprint else "not known"
    notes = f"\n## Notes\n\n{as_text(manifest.notes)}\n" if manifest.notes else ""
    return f"""{_HEAD}
# {as_text(repo_id.rpartition("/")[2])}

{TASKS[manifest.task].format(count=len(manifest.vocab))} The network is {as_code(manifest.backbone.name)} of {manifest.backbone.source} and sees {sees}.

## Use

```
pip install vizsla
```

```python
from vizsla import from_hub

predictor = from_hub("{repo_id}")
print(predictor.predict("photo.jpg").label)
```

The file holds weights and plain data; opening it runs no code.

## How good it is

{quality_text(manifest)}
{calibration}
## {"Classes" if classes else "Numbers"}

{joined(list(map(as_code, manifest.vocab)), limit=_MOST_CLASSES)}

## Where it comes from

- Training started from: {as_text(manifest.backbone.weights)}
- Licence of those weights: {as_text(manifest.backbone.licence)}. The licence of the training images is for their owner to state.
- Fingerprint of images and labels: {fingerprint}
- Fingerprint of the weights: {as_code(manifest.tensors_sha256)}
- Written {as_text(manifest.created)} by vizsla {as_text(manifest.vizsla_version)} ({as_text(versions)})

## Limits

- The numbers above hold for images like those of the validation set: the same sources, cameras and share of each class. Evaluate it on your own images before relying on it.
{foreign}{depth}- The model learnt from labels that people gave, including their mistakes.
{notes}"""


def quality_text(manifest: Manifest) -> str:
    """Return what was measured of a model as a table in Markdown."""
    if not manifest.metrics:
        return "No metrics were recorded when the file was written.\n"
    rows = [
        f"| {as_text(metric.name)} | {_number(metric.value)} | {_number(metric.low)} to {_number(metric.high)} "
        f"| {metric.num_pictures:,} |\n"
        for metric in manifest.metrics
    ]
    return (
        "Measured on validation images, which were not used for training:\n"
        "\n"
        "| measure | value | 95 % interval | images |\n"
        "|---|---|---|---|\n" + "".join(rows)
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not known"


def as_text(text: str) -> str:
    """Return text on one line in which nothing is Markdown or HTML."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", "".join(filter(str.isprintable, flat)))


def as_code(text: str) -> str:
    """Return a name as a code span, also where it has backticks or line breaks."""
    flat = "".join(filter(str.isprintable, " ".join(text.split())))
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{space}{flat or ' '}{space}{fence}"
