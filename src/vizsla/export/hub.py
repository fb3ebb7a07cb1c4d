"""A model file to a repository of the Hugging Face hub, with a page that says what it is; and a predictor from one.

The repository holds ``model.safetensors`` and ``README.md``. Nothing else is ever fetched from one: a safetensors file with
our manifest cannot run anything, which cannot be said of most other files there.
"""

from __future__ import annotations

import http.client
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vizsla.errors import ConfigError, ModelFileError, OutputError
from vizsla.export.bundle import read_manifest
from vizsla.export.model_card import model_card
from vizsla.export.predictor import Predictor
from vizsla.models.hub import hub_from_environment

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL_NAME = "model.safetensors"
"""The one file that is fetched from a repository."""

_WAITS_SECONDS = (
    0.5,
    2.0,
)  # huggingface_hub tries all but the creation of a repository again by itself.
_LOG_IN = "Log in with `hf auth login`, set HF_TOKEN, or pass token=...; writing needs a token with the right to write."


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

    Example:
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

    Example:
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
    path = _asked(
        fetch,
        problem=ModelFileError,
        what=f"The model {where} cannot be fetched from {address}",
    )
    return Predictor.load(path)


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
    """Return what the hub answers; turn what huggingface_hub raises into one error of ours with the way out.

    Args:
        question: Asks.
        problem: The error to raise.
        what: The first words of its message.
        waits: Seconds to wait before each further try where nobody answered or the server said that it cannot now.
    """
    from huggingface_hub.errors import HFValidationError

    for wait in (*waits, None):
        try:
            return question()
        except HFValidationError as error:
            raise ConfigError(
                f"This is no name of a repository: {_first_line(error)} Give 'owner/name'."
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
            "there is no such repository, or it is private (404). Check owner and name, and log in."
        )
    if status is not None:
        return f"the hub answered {status}: {_first_line(error)} Try again later."
    return f"{_first_line(error)} Check the network and the address."


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error of huggingface_hub, or of the one that it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines or [type(error).__name__])[0][:300]
    return text if text.endswith(".") else f"{text}."
