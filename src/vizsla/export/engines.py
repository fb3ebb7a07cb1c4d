"""Other engines than onnxruntime: programs of torch.export, OpenVINO and ExecuTorch; what is written, and what answers with it.

Shape legend: B images of one size, H x W, C classes (or numbers).
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from vizsla.cores import num_cores
from vizsla.errors import ConfigError, MissingExtraError
from vizsla.export.graph import inference_graph
from vizsla.export.onnx import exported_program
from vizsla.export.verify import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vizsla.export.verify import Answers
    from vizsla.model_file.bundle import Bundle

RUNTIME_INFO = METADATA_PREFIX.rstrip(".")
"""Where an OpenVINO file has what the metadata of an ONNX file says: ``model.get_rt_info(["vizsla", "vocab"])``."""


def write_torch(bundle: Bundle, *, to: Path) -> None:
    """Write a program of ``torch.export``, with the presize inside."""
    # Given a path, torch would note the temporary name; given a file on a full disk, it ends the process.
    content = io.BytesIO()
    torch.export.save(exported_program(inference_graph(bundle)), content)
    to.write_bytes(content.getbuffer())


def torch_answers(path: Path) -> Answers:
    """Return a function from uint8 ``(B, H, W, 3)`` to float32 ``(B, C)``, computed by a program of ``torch.export``.

    The ``.pt2`` file must be your own: torch does not promise that opening a foreign one is safe.
    """
    with warnings.catch_warnings(action="ignore"):
        module = torch.export.load(path).module()

    def answers(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return module(torch.tensor(images)).numpy()  # a copy: Pillow's pixels may be read-only

    return answers


def write_openvino(onnx: Path, *, to: Path) -> None:
    """Write an ONNX file as OpenVINO's ``.xml`` with the weights beside it in a ``.bin``; the metadata is its runtime info."""
    check_engine("openvino")
    import onnx as format_of_onnx
    import openvino

    with _told("OpenVINO cannot read the network"):
        model: Any = openvino.convert_model(onnx)
    for prop in format_of_onnx.load(onnx, load_external_data=False).metadata_props:
        model.set_rt_info(prop.value, [RUNTIME_INFO, prop.key.removeprefix(METADATA_PREFIX)])
    openvino.save_model(
        model, to, compress_to_fp16=False
    )  # it would halve the precision of float32


def openvino_answers(path: Path, *, num_threads: int | None = None) -> Answers:
    """Return a function from uint8 ``(B, h, w, 3)`` to float32 ``(B, C)``, computed by OpenVINO on the CPU."""
    check_engine("openvino")
    import openvino

    # By itself it computes in bfloat16 where the processor can.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": num_threads or num_cores(),
    }
    with _told("OpenVINO cannot compute the network on this processor"):
        compiled: Any = openvino.Core().compile_model(path, "CPU", options)

    def answers(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return compiled(images)[0].copy()

    return answers


def write_executorch(bundle: Bundle, *, to: Path) -> None:
    """Write a program of ExecuTorch for one image of the size of the presize, with XNNPACK for the CPUs of phones and others."""
    check_engine("executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
    from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

    resize = bundle.manifest.resize
    if resize is None:
        raise ConfigError(
            "An ExecuTorch program takes images of one size, and this model takes any. Train with item_tfms=Resize(...)."
        )
    program = exported_program(inference_graph(bundle, presized=True), size=resize.size, batch=1)
    with warnings.catch_warnings(action="ignore"), _told("ExecuTorch cannot take the network"):
        lowered: Any = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        content = lowered.to_executorch().buffer
    to.write_bytes(content)


def executorch_answers(path: Path) -> Answers:
    """Return a function from uint8 ``(B, h, w, 3)`` to float32 ``(B, C)``, computed by ExecuTorch, image by image."""
    check_engine("executorch")
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    forward: Any = Runtime.get().load_program(path).load_method("forward")

    def answers(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = [forward.execute([torch.tensor(image[None])])[0].clone() for image in images]
        return torch.cat(rows).numpy()

    return answers


@contextmanager
def _told(what: str) -> Generator[None]:
    """Turn errors of an engine, which may be of any kind, into one that says what to do."""
    try:
        yield
    except Exception as error:
        # Its first lines are places in its own source.
        said = next(iter(str(error).splitlines()[::-1]), type(error).__name__)
        raise ConfigError(
            f"{what}: {said} Try --onnx, another precision, or another architecture."
        ) from error


def check_engine(package: str) -> None:
    """Raise MissingExtraError if ``openvino`` or ``executorch`` is not installed."""
    if find_spec(package) is None:
        raise MissingExtraError(package, extra=package, purpose=f"export to {package}")
