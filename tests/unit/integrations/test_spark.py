"""The example of docs/scale.md runs in Spark, on this machine."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsla import Predictor, Resize
from vizsla.model_file import save_bundle

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"


@pytest.mark.slow
def test_the_documented_example_predicts_what_the_predictor_does(
    tmp_path: Path, make_classifier: Any, draw: Any, python: Callable[..., str]
):
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    section = PAGE.read_text("utf-8").split("\n## Predicting in Spark")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    model = save_bundle(tmp_path / "model.safetensors", classifier=make_classifier(("a", "b")), resize=Resize(32))  # fmt: skip
    (tmp_path / "photos").mkdir()
    for number in range(9):
        draw("disc", number=number).save(tmp_path / "photos" / f"{number}.jpg")
    (tmp_path / "photos" / "broken.jpg").write_text("Dear diary")
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    python("-c", code, cwd=tmp_path, env=environment)

    import pyarrow.parquet as parquet

    rows = {Path(row["path"]).name: row["said"] for row in parquet.read_table(tmp_path / "said").to_pylist()}  # fmt: skip
    assert len(rows) == 10
    broken = rows.pop("broken.jpg")
    assert (broken["prediction"], broken["probability"]) == (None, None)
    assert "Dear diary" in broken["error"]
    predictor = Predictor.load(model, device="cpu")
    for name, said in rows.items():
        answer = predictor.predict(tmp_path / "photos" / name)
        assert (said["prediction"], said["error"]) == (answer.label, None)
        assert said["probability"] == pytest.approx(answer.probability, abs=1e-5)
