"""Write a model file as ONNX or as a torch.export program, with its preprocessing inside, checked before it is kept.

Both take uint8 images ``(B, H, W, 3)`` of any size, as a decoder gives them, and return ``(B, C)`` calibrated probabilities.
Neither is kept if its answers differ from those of the model file by more than 0.001.

Shape legend: B images of one size, H x W, C classes (or numbers).
"""

from __future__ import annotations

import io
import json
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vizsla.errors import ConfigError, MissingExtraError
from vizsla.export.graph import inference_graph
from vizsla.export.verify import (
    INPUT_NAME,
    METADATA_PREFIX,
    Parity,
    Reference,
    check_close,
    compare,
    golden_path,
    onnx_answers,
    write_golden,
)
from vizsla.files import atomic_write
from vizsla.model_file.bundle import load_bundle
from vizsla.model_file.manifest import manifest_to_json
from vizsla.predict.predictor import Predictor
from vizsla.text import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from vizsla.export.graph import InferenceGraph
    from vizsla.export.verify import Answers
    from vizsla.model_file.manifest import Manifest
    from vizsla.model_file.rebuild import Builder

OPSET = 18
"""The ONNX operators that are used; onnxruntime has known them since version 1.14 (2023)."""

_LARGEST_SIDE = 65_535  # Pixels, and images of a batch; torch.export wants a bound.
_MOST_BYTES = 1_900_000_000  # One ONNX file is one protobuf message, which ends at 2 GiB.


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """A file that was written.

    Attributes:
        path: The file.
        parity: How far its answers are from those of the model file.
        golden: The images and answers beside it; None if there are none.
    """

    path: Path
    parity: Parity
    golden: Path | None


def export_model(
    model: Path | str,
    *,
    onnx: Path | str | None = None,
    torch_program: Path | str | None = None,
    images: Sequence[Path | str] = (),
    builder: Builder | None = None,
) -> tuple[ExportedModel, ...]:
    """Write a model file as ONNX, as a ``torch.export`` program, or both, and check that they answer alike.

    Args:
        model: A file that ``save_bundle`` wrote.
        onnx: ONNX file to write; the golden images lie beside it, see ``golden_path``.
        torch_program: ``.pt2`` file to write.
        images: Files, and folders whose images are all taken, to check with; empty for synthetic ones.
        builder: Makes the parts of the network that are your own, see ``Predictor.load``; the files written need it no more.

    Returns:
        What was written, in that order.

    Raises:
        ModelFileError: The model file cannot be used.
        ConfigError: Neither file was asked for, or torch cannot make one graph of the network.
        OutputError: A file cannot be written, or its answers differ by more than 0.001. Old files are untouched.
        DataError: An image cannot be read, or a folder has none.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.

    Examples:
        >>> export_model("model.safetensors", onnx="model.onnx")[0].parity.max_difference < 1e-3
        True
    """
    if onnx is None and torch_program is None:
        raise ConfigError("Nothing to export to. Give a file: --onnx FILE, --torch FILE, or both.")
    if onnx is not None:
        _check_installed()
    bundle = load_bundle(model, builder=builder)
    resize = bundle.manifest.resize
    reference = Reference(
        Predictor.of_bundle(bundle),
        images=images,
        cover=None if resize is None else resize.cover(training=False),
    )
    graph = inference_graph(bundle)
    paths = [Path(path) for path in (onnx, torch_program) if path is not None]
    with ExitStack() as files:
        # All are written and checked under temporary names, then all appear.
        temporary = [files.enter_context(atomic_write(path)) for path in paths]
        program = exported_program(graph)
        answers: list[Answers] = []
        if onnx is not None:
            temporary[0].write_bytes(onnx_bytes(program, manifest=bundle.manifest))
            answers.append(onnx_answers(temporary[0]))
        if torch_program is not None:
            # Given a path, it would note the temporary name; given a file on a full disk, torch ends the process.
            content = io.BytesIO()
            torch.export.save(program, content)
            temporary[-1].write_bytes(content.getbuffer())
            answers.append(program_answers(temporary[-1]))
        parities, kept = compare(reference.batches(), answers=answers)
        for parity, path in zip(parities, paths, strict=True):
            check_close(parity, path=path)
        golden = None if onnx is None else golden_path(onnx)
        if golden is not None:
            write_golden(golden, kept)
    return tuple(
        ExportedModel(
            path=path,
            parity=parity,
            golden=golden if onnx is not None and path == Path(onnx) else None,
        )
        for path, parity in zip(paths, parities, strict=True)
    )


def exported_program(graph: InferenceGraph) -> ExportedProgram:
    """Return the graph, in evaluation mode, as torch.export sees it, for batches and images of every size."""
    from torch.export import Dim, export

    largest = _LARGEST_SIDE
    sides = {0: Dim("batch", min=1, max=largest), 1: Dim("height", min=1, max=largest)}
    example = torch.zeros((2, 96, 80, 3), dtype=torch.uint8)
    shapes = ({**sides, 2: Dim("width", min=1, max=largest)},)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        try:
            program = export(graph, (example,), dynamic_shapes=shapes)
        except Exception as error:
            spec = graph.classifier.backbone.spec
            cure = "Use another architecture or version of torch."
            if spec.source == "module":
                cure = "In code of your own, write images.shape[0] for len(images), and avoid branches on values."
            raise ConfigError(
                f"torch {torch.__version__} cannot make one graph of the network {spec.name}: {_reason(error)} {cure}"
            ) from error
    # The paths of this machine's source files are not for others.
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def onnx_bytes(program: ExportedProgram, *, manifest: Manifest) -> bytes:
    """Return a program as the content of an ONNX file, with manifest, names of the classes and task as metadata."""
    _check_installed()
    num_bytes = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if num_bytes > _MOST_BYTES:
        raise ConfigError(
            f"The weights take {num_bytes / 1e9:.1f} GB, and an ONNX file has at most 2. Use --torch FILE instead."
        )
    with warnings.catch_warnings(action="ignore"):
        try:
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=["values" if manifest.task == "regression" else "probabilities"],
                verbose=False,
            )
        except Exception as error:
            raise ConfigError(
                f"The network {manifest.backbone.name} cannot be written as ONNX by torch {torch.__version__}: {_reason(error)} "
                "Use --torch FILE instead, or another architecture."
            ) from error
    proto: Any = written.model_proto
    graph = proto.graph
    lists = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer, [graph])
    # Torch notes the source lines, with paths, of every operation for its own developers.
    for part in chain(*lists):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for key, value in (
        ("manifest", manifest_to_json(manifest)),
        ("vocab", json.dumps(manifest.vocab)),
        ("task", manifest.task),
        *([] if manifest.bit_depth is None else [("bit_depth", str(manifest.bit_depth))]),
        *([] if manifest.thresholds is None else [("thresholds", json.dumps(manifest.thresholds))]),
    ):
        proto.metadata_props.add(key=METADATA_PREFIX + key, value=value)
    return proto.SerializeToString()


def program_answers(path: Path) -> Answers:
    """Return a function from uint8 ``(B, H, W, 3)`` to float32 ``(B, C)``, computed by a program of ``torch.export``.

    The ``.pt2`` file must be your own: torch does not promise that opening a foreign one is safe.
    """
    with warnings.catch_warnings(action="ignore"):
        module = torch.export.load(path).module()

    def answers(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return answers


def _check_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="onnx", purpose="write ONNX files")


def _reason(error: BaseException) -> str:
    """Return the first cause; on top of it the exporters put instructions to their own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
