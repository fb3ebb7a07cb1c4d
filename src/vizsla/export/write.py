"""Write a model file for other programs, whole or not at all, and check each file against the model before it is kept.

Every one takes uint8 images and returns calibrated probabilities. Those in float32 are compared on images in memory, one by one and in
batches, and may hardly differ; those in float16 and int8 on image files, by how often the answer is the same and how much of the
probability moved (``TOLERANCES``).

Shape legend: B images of one size, C classes (or numbers).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vizsla.errors import ConfigError
from vizsla.export import engines
from vizsla.export.folders import MODEL_NAME, write_folder
from vizsla.export.measure import CheckImages, Measured, Program, measure
from vizsla.export.onnx import check_onnx_installed, onnx_bytes
from vizsla.export.runtime import prepared
from vizsla.export.verify import (
    TOLERANCES,
    Golden,
    OnnxAnswers,
    Parity,
    Precision,
    Reference,
    check_close,
    compare,
    decoding_parity,
    first_batches,
    golden_path,
    write_golden,
)
from vizsla.files import atomic_folder, atomic_write
from vizsla.model_file.bundle import load_bundle
from vizsla.model_file.manifest import manifest_to_json
from vizsla.predict.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from vizsla.data.images.sizing import Resize
    from vizsla.export.verify import Answers
    from vizsla.model_file.bundle import Bundle
    from vizsla.model_file.rebuild import Builder
    from vizsla.types import ImageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """A file or folder that was written.

    Attributes:
        path: The file or folder.
        parity: How far its answers are from those of the model file: in float32 on images in memory, one by one and in batches, in
            other precisions on image files.
        golden: The images and answers beside an ONNX file; None for others.
        measured: The model file and this one on image files; empty where there were none.
        decoding: How far answers for JPEG files are from those of programs that decode all of their pixels; None without files.
    """

    path: Path
    parity: Parity
    golden: Path | None
    measured: tuple[Measured, ...] = ()
    decoding: Parity | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """What has been written under a temporary name, and answers; ``presize`` brings images to the size that it takes, if it does not."""

    path: Path
    answers: Answers
    num_bytes: int
    presize: Resize | None

    def of_any_size(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.presize is None:
            return self.answers(images)
        pixels = [self.presize.presize_pixels(image, training=False) for image in images]
        return self.answers(np.stack(pixels))


def export_model(
    model: Path | str,
    *,
    onnx: Path | str | None = None,
    torch_program: Path | str | None = None,
    openvino: Path | str | None = None,
    executorch: Path | str | None = None,
    space: Path | str | None = None,
    docker: Path | str | None = None,
    precision: Precision = "float32",
    images: Sequence[Path | str] = (),
    data: ImageTable | Path | str | None = None,
    builder: Builder | None = None,
    on_note: Callable[[str], None] = lambda _note: None,
) -> tuple[ExportedModel, ...]:
    """Write a model file in other forms, and check that all of them answer as it does.

    Args:
        model: A file that ``save_bundle`` wrote.
        onnx: ONNX file to write; the golden images lie beside it, see ``golden_path``. In float32 its images may have any size; all
            that follows but ``torch_program`` takes images of the size of the presize.
        torch_program: ``.pt2`` file of ``torch.export`` to write, in float32.
        openvino: ``.xml`` file of OpenVINO to write; its weights lie beside it in a ``.bin``.
        executorch: ``.pte`` file of ExecuTorch to write, in float32, for one image at a time.
        space: New folder to write, a Hugging Face Space that shows a page (Gradio).
        docker: New folder to write, the build context of an image that answers HTTP requests.
        precision: What the network computes in. ``"float16"`` has half the size, ``"int8"`` a quarter and takes less time.
        images: Files, and folders whose images are all taken, to check with; empty for those of ``data``, else synthetic ones.
        data: What int8 is calibrated on, and everything is measured on: the table of a run; a folder or CSV file with labels, as for
            ``vizsla evaluate``; or a folder without.
        builder: Makes the parts of the network that are your own, see ``Predictor.load``; what is written needs it no more.
        on_note: Called with a sentence for what could not be measured.

    Returns:
        What was written, in the order of the arguments.

    Raises:
        ModelFileError: The model file cannot be used.
        ConfigError: Nothing was asked for, torch cannot make one graph of the network, or this precision lacks images.
        OutputError: Something cannot be written, or its answers are further off than ``TOLERANCES`` says. Old files are untouched.
        DataError: An image cannot be read, or a folder has none.
        MissingExtraError: A package that is needed for this is not installed.

    Examples:
        >>> export_model("model.safetensors", onnx="model.onnx")[0].parity.max_difference < 1e-3
        True
        >>> export_model("model.safetensors", onnx="small.onnx", precision="int8", data="pets")[0].parity.agreement > 0.98
        True
    """
    given = {"onnx": onnx, "torch": torch_program, "openvino": openvino, "executorch": executorch}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    folders = {name: Path(path) for name, path in (("space", space), ("docker", docker)) if path is not None}  # fmt: skip
    _check_choices({*paths, *folders}, precision=precision)
    bundle = load_bundle(model, builder=builder)
    predictor = Predictor.of_bundle(bundle)
    manifest: dict[str, Any] = json.loads(manifest_to_json(bundle.manifest))
    resize = bundle.manifest.resize
    cover = None if resize is None else resize.cover(training=False)
    reference = Reference(predictor, images=images, cover=cover)
    check = CheckImages.of(predictor, data=data, files=reference.files).readable(manifest)
    if check.note:
        on_note(check.note)
    if (precision != "float32" and not check.files) or (precision == "int8" and not check.calibration):  # fmt: skip
        raise ConfigError(
            f"{precision} needs images to calibrate and compare on, similar to those that the model will see. "
            "Give the folder of a run whose images still exist, or images with --calibrate DATA (data=)."
        )
    with ExitStack() as held:
        # All are written and checked under temporary names, then all appear.
        places = {name: held.enter_context(atomic_write(path)) for name, path in paths.items()}
        places |= {name: held.enter_context(atomic_folder(path)) for name, path in folders.items()}
        if "openvino" in places:
            places["weights"] = held.enter_context(
                atomic_write(paths["openvino"].with_suffix(".bin"))
            )
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory()))
        calibration = [prepared(file, manifest) for file in check.calibration]
        small = scratch / "model.onnx"
        if set(places) & {"openvino", "space", "docker"} or (onnx and precision != "float32"):
            content = onnx_bytes(
                bundle, precision=precision, presized=True, calibration=calibration
            )
            small.write_bytes(content)
        written: list[_Written] = []
        for name, path in (paths | folders).items():
            answers, num_bytes = _write(
                name, bundle, places, small=small, precision=precision, title=path.name
            )
            is_presized = resize is not None and not (
                precision == "float32" and name in ("onnx", "torch")
            )
            written.append(
                _Written(
                    path=path,
                    answers=answers,
                    num_bytes=num_bytes,
                    presize=resize if is_presized else None,
                )
            )
        measured = _measured(written, bundle, check, manifest, model=Path(model))
        if precision == "float32":
            parities, kept = compare(
                reference.batches(),
                answers=[each.of_any_size for each in written],
                task=predictor.task,
            )
            cure = "Leave out images of more than 33 million pixels, or try other versions of torch and onnxruntime."
        else:
            # Not those of the model, but its own: the same file on another machine is much nearer to them.
            kept = first_batches(_own_answers(written[0].answers, check, manifest))
            parities = [each.parity for each in measured[1:]]
            cure = "Give other images with --calibrate DATA, or take --fp16, or neither."
        for parity, each in zip(parities, written, strict=True):
            check_close(parity, tolerance=TOLERANCES[precision], path=each.path, cure=cure)
        decoding = decoding_parity(predictor, check.files)
        golden = None if onnx is None else golden_path(onnx)
        if golden is not None:
            write_golden(golden, kept)
    return tuple(
        ExportedModel(
            path=each.path,
            parity=parity,
            golden=golden if each is written[0] else None,
            measured=(measured[0], measured[number]) if measured else (),
            decoding=decoding,
        )
        for number, (each, parity) in enumerate(zip(written, parities, strict=True), start=1)
    )


def _check_choices(names: set[str], *, precision: Precision) -> None:
    if not names:
        raise ConfigError(
            "Nothing to export to. Give a file: --onnx FILE, --torch FILE, --openvino FILE or --executorch FILE; or a folder: "
            "--space DIR or --docker DIR."
        )
    if precision not in TOLERANCES:
        raise ConfigError(
            f"precision must be one of {', '.join(TOLERANCES)}. Received: {precision!r}"
        )
    whole = names & {"torch", "executorch"}
    if precision != "float32" and whole:
        raise ConfigError(
            f"Programs of torch.export and ExecuTorch are float32. Write them without {precision}. Received: {', '.join(sorted(whole))}"
        )
    if names - {"torch", "executorch"}:
        check_onnx_installed()
    for engine in names & {"openvino", "executorch"}:
        engines.check_engine(engine)


def _write(
    name: str,
    bundle: Bundle,
    places: dict[str, Path],
    *,
    small: Path,
    precision: Precision,
    title: str,
) -> tuple[Answers, int]:
    """Write one file or folder to its place; return what answers with it, and the bytes of the model in it.

    ``small`` is the ONNX file for images of the size of the presize. OpenVINO's weights have a place of their own.
    """
    to = places[name]
    if name == "openvino":
        made = small.with_suffix(".xml")
        engines.write_openvino(small, to=made)
        pairs = ((made, to), (made.with_suffix(".bin"), places["weights"]))
        for source, target in pairs:
            shutil.copyfile(source, target)
        return engines.openvino_answers(made), sum(source.stat().st_size for source, _ in pairs)
    if name in ("space", "docker"):
        write_folder(name, to=to, onnx=small, manifest=bundle.manifest, title=title)
        return OnnxAnswers(to / MODEL_NAME), small.stat().st_size
    if name == "onnx":
        to.write_bytes(onnx_bytes(bundle) if precision == "float32" else small.read_bytes())
    elif name == "torch":
        engines.write_torch(bundle, to=to)
    else:
        engines.write_executorch(bundle, to=to)
    answers = {
        "onnx": OnnxAnswers,
        "torch": engines.torch_answers,
        "executorch": engines.executorch_answers,
    }
    return answers[name](to), to.stat().st_size


def _measured(
    written: Sequence[_Written],
    bundle: Bundle,
    check: CheckImages,
    manifest: dict[str, Any],
    *,
    model: Path,
) -> list[Measured]:
    """Return what the model file, then the others give on image files; nothing where there are none."""
    if not check.files:
        return []
    predictor = Predictor.of_bundle(bundle)

    def of_predictor(file: Path) -> NDArray[np.float32]:
        return predictor.predict(file).probabilities.float().numpy()

    def of(each: _Written) -> Callable[[Path], NDArray[np.float32]]:
        return lambda file: each.answers(prepared(file, manifest)[None])[0]

    programs = [Program(name=model.name, answer=of_predictor, num_bytes=model.stat().st_size)]
    programs += [
        Program(name=each.path.name, answer=of(each), num_bytes=each.num_bytes) for each in written
    ]
    return measure(programs, check, manifest=bundle.manifest)


def _own_answers(
    answers: Answers, check: CheckImages, manifest: dict[str, Any]
) -> Iterator[Golden]:
    for file in check.files:
        pixels = prepared(file, manifest)[None]
        yield Golden(name=file.name, images=pixels, answers=answers(pixels))
