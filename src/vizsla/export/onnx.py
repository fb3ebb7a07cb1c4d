"""Make ONNX files: the content of one from a model, in float32, float16 or int8.

Images of a float32 file may have any size, as a decoder gives them. Files in float16 and int8 are for speed, which a resize in the
graph would halve: they take images that have the size of the presize already (``runtime.py`` brings them to it).

Shape legend: B images of one size, H x W.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import asdict
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
    TOLERANCES,
)
from vizsla.model_file.manifest import manifest_to_json
from vizsla.text import first_line

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from vizsla.export.graph import InferenceGraph
    from vizsla.export.verify import Precision
    from vizsla.model_file.bundle import Bundle
    from vizsla.types import Size

OPSET = 18
"""The ONNX operators that are used; onnxruntime has known them since version 1.14 (2023)."""

_LARGEST_SIDE = 65_535  # Pixels, and images of a batch; torch.export wants a bound.
_MOST_BYTES = 1_900_000_000  # One ONNX file is one protobuf message, which ends at 2 GiB.
_SCOPES = "pkg.torch.onnx.name_scopes"


def exported_program(
    graph: InferenceGraph, *, size: Size | None = None, batch: int | None = None
) -> ExportedProgram:
    """Return the graph, in evaluation mode, as torch.export sees it, for batches and images of every size, or one of them."""
    from torch.export import Dim, export

    free = {0: "batch"} if batch is None else {}
    free |= {1: "height", 2: "width"} if size is None else {}
    sides = {axis: Dim(name, min=1, max=_LARGEST_SIDE) for axis, name in free.items()}
    example = torch.zeros((batch or 2, *(size or (96, 80)), 3), dtype=torch.uint8)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        try:
            program = export(graph, (example,), dynamic_shapes=(sides,))
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


def onnx_bytes(
    bundle: Bundle,
    *,
    precision: Precision = "float32",
    presized: bool = False,
    calibration: Sequence[NDArray[np.uint8]] = (),
) -> bytes:
    """Return a model as the content of an ONNX file, with manifest, names of the classes, task and tolerance as metadata.

    Other precisions than float32 are always ``presized``. ``calibration`` are images of that size, for int8.
    """
    check_onnx_installed()
    manifest = bundle.manifest
    presized = (presized or precision != "float32") and manifest.resize is not None
    graph = inference_graph(bundle, presized=presized, half=precision == "float16")
    program = exported_program(graph, size=manifest.resize.size if presized and manifest.resize else None)  # fmt: skip
    num_bytes = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if num_bytes > _MOST_BYTES:
        raise ConfigError(
            f"The weights take {num_bytes / 1e9:.1f} GB, but an ONNX file can hold at most 2 GB. Use --torch FILE "
            "instead."
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
    if precision == "int8":
        proto = _quantised(proto, calibration)
    graph = proto.graph
    lists = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer, [graph])
    # Torch notes the source lines, with paths, of every operation for its own developers.
    for part in chain(*lists):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    tolerance = TOLERANCES[precision]
    for key, value in (
        ("manifest", manifest_to_json(manifest)),
        ("vocab", json.dumps(manifest.vocab)),
        ("task", manifest.task),
        ("precision", precision),
        ("tolerance", json.dumps(asdict(tolerance))),
        *([] if manifest.bit_depth is None else [("bit_depth", str(manifest.bit_depth))]),
        *([] if manifest.thresholds is None else [("thresholds", json.dumps(manifest.thresholds))]),
    ):
        proto.metadata_props.add(key=METADATA_PREFIX + key, value=value)
    return proto.SerializeToString()


def _quantised(proto: Any, calibration: Sequence[NDArray[np.uint8]]) -> Any:
    """Return an ONNX model whose backbone computes in 8 bits, with ranges that it has on the images.

    The head and what comes before the network stay as they are: they take no time, and with the head in 8 bits answers were half
    as far off again. All operations of the backbone take part: with convolutions and matrix products alone they were eight times as
    far off (benchmarks/README.md). Weights have a scale for each channel and 7 bits: with 8, processors without VNNI overflow.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(calibration)

        def get_next(self) -> Any:  # its stub does not know that None ends the images
            image = next(self.images, None)
            return None if image is None else {INPUT_NAME: image[None]}

    outside = [
        node.name
        for node in proto.graph.node
        if not any(
            "classifier.backbone" in prop.value
            for prop in node.metadata_props
            if prop.key == _SCOPES
        )
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=outside,
        )
        return onnx.load(str(path))


@contextmanager
def _quiet() -> Generator[None]:
    """Keep onnxruntime from advising, in the root logger, a preparation that torch has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check_onnx_installed() -> None:
    """Raise MissingExtraError if a package that writing ONNX files takes is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="onnx", purpose="write ONNX files")


def _reason(error: BaseException) -> str:
    """Return the first cause; on top of it the exporters put instructions to their own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
