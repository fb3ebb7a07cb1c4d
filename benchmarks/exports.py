"""What exports give on the validation images of a run, next to its model file: same answers, accuracy, size, images/s, in one run.

python -m benchmarks.exports RUN [--threads 1] [--executorch]

Every image file goes the whole way, from its bytes to the answer, through all programs in turn. RUN is a folder that ``vizsla train`` wrote,
whose images are still there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vizsla.export.verify import Answers


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="of every engine (default: 1)")
    parser.add_argument("--executorch", action="store_true", help="that too")
    options = parser.parse_args()

    import torch

    from vizsla import Predictor
    from vizsla.export import CheckImages, OnnxAnswers, engines, measured_lines, prepared
    from vizsla.export.measure import Program, measure
    from vizsla.export.onnx import onnx_bytes
    from vizsla.model_file import load_bundle, manifest_to_json
    from vizsla.run import RunFolder

    torch.set_num_threads(options.threads)
    run = RunFolder(options.run)
    bundle = load_bundle(run.model)
    predictor = Predictor.of_bundle(bundle)
    manifest: dict[str, Any] = json.loads(manifest_to_json(bundle.manifest))
    check = CheckImages.of(predictor, data=run.table(), files=()).readable(manifest)
    calibration = [prepared(file, manifest) for file in check.calibration]

    def of_model(file: Path) -> Any:
        return predictor.predict(file).probabilities.float().numpy()

    programs = [
        Program(name="torch, the model file", answer=of_model, num_bytes=run.model.stat().st_size)
    ]

    def add(name: str, answers: Answers, *files: Path) -> None:
        programs.append(
            Program(
                name=name,
                answer=lambda file: answers(prepared(file, manifest)[None])[0],
                num_bytes=sum(file.stat().st_size for file in files),
            )
        )

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, precision, presized in (
            ("ONNX float32, resize inside", "float32", False),
            ("ONNX float32", "float32", True),
            ("ONNX float16", "float16", True),
            ("ONNX int8", "int8", True),
        ):
            file = place / f"{precision}-{presized}.onnx"
            file.write_bytes(
                onnx_bytes(bundle, precision=precision, presized=presized, calibration=calibration)
            )
            add(name, OnnxAnswers(file, num_threads=options.threads), file)
        for precision in ("float32", "int8"):
            file = place / f"{precision}.xml"
            engines.write_openvino(place / f"{precision}-True.onnx", to=file)
            answers = engines.openvino_answers(file, num_threads=options.threads)
            add(f"OpenVINO {precision}", answers, file, file.with_suffix(".bin"))
        if options.executorch:
            file = place / "model.pte"
            engines.write_executorch(bundle, to=file)
            add("ExecuTorch float32", engines.executorch_answers(file), file)
        measured = measure(programs, check, manifest=bundle.manifest)
    print(f"{len(check.files)} images, {options.threads} threads")
    print("\n".join(measured_lines(measured)))


if __name__ == "__main__":
    main()
