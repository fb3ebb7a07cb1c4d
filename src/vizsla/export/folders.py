"""Write a folder that is ready to run elsewhere: a Hugging Face Space with a page, or the context of a Docker image.

Both hold the ONNX file, a copy of ``runtime.py`` and a small program that is the same for every model: what strangers wrote, such as names
of classes, is in the metadata of the ONNX file and, with nothing in it that is markup, in ``README.md``; never in code.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Literal

from vizsla.export import runtime
from vizsla.export.hub import TASKS, as_code, as_text, quality_text
from vizsla.text import joined

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.model_file.manifest import Manifest

MODEL_NAME = "model.onnx"
RUNTIME_NAME = "runtime.py"
_MOST_CLASSES = 200
_GRADIO = "6.31.0"  # what it was tried with
_SAFE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_SPACE_APP = f'''"""A web page that runs the model in this folder on an image."""

from runtime import OnnxPredictor, PictureError

predictor = OnnxPredictor("{MODEL_NAME}", formats={_SAFE_FORMATS}, max_pixels=50_000_000)


def predict(path):
    """Return the probability of each class, or the numbers, for an image file; nothing without one."""
    if path is None:
        return None
    try:
        said = predictor.predict(path)
    except PictureError:
        import gradio

        raise gradio.Error("This image cannot be read.") from None
    return said["prediction"] if predictor.task == "regression" else said["probabilities"]


def page():
    """Return the page."""
    import gradio

    shown = gradio.JSON() if predictor.task == "regression" else gradio.Label(num_top_classes=3)
    image = gradio.Image(type="filepath", label="image")
    return gradio.Interface(predict, image, shown, flagging_mode="never", api_name="predict")


if __name__ == "__main__":
    page().launch()
'''

_DOCKER_APP = f'''"""Answer HTTP requests: POST the bytes of an image to /predict; GET / returns the task and classes."""

import json
import os

from runtime import OnnxPredictor, PictureError

MOST_BYTES = 20_000_000
predictor = OnnxPredictor("{MODEL_NAME}", num_threads=1, formats={_SAFE_FORMATS}, max_pixels=50_000_000)


def answer(method, path, body):
    """Return the status and what is sent as JSON for a request whose body is a function."""
    if path == "/" and method == "GET":
        return "200 OK", {{"task": predictor.task, "classes": predictor.vocab}}
    if path != "/predict":
        return "404 Not Found", {{"error": "Not found. Use /predict, or / for the task and classes."}}
    if method != "POST":
        return "405 Method Not Allowed", {{"error": "POST the bytes of an image."}}
    try:
        return "200 OK", predictor.predict(body())
    except PictureError as error:
        return "400 Bad Request", {{"error": str(error)}}


def app(environ, start_response):
    """Answer a request; any WSGI server can call it."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > MOST_BYTES:
        status, said = "413 Content Too Large", {{"error": f"At most {{MOST_BYTES:,}} bytes."}}
    else:
        read = environ["wsgi.input"].read
        status, said = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], lambda: read(length))
    content = json.dumps(said).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response(status, [*headers, ("X-Content-Type-Options", "nosniff")])
    return [content]


if __name__ == "__main__":
    from waitress import serve

    address = f"*:{{os.environ.get('PORT', '8000')}}"
    serve(app, listen=address, threads=os.cpu_count() or 1, max_request_body_size=MOST_BYTES)
'''

_DOCKERFILE = f"""FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY {MODEL_NAME} {RUNTIME_NAME} app.py ./
USER nobody
EXPOSE 8000
CMD ["python", "app.py"]
"""

_REQUIREMENTS = "numpy>=1.26\nonnxruntime>=1.24\npillow>=12.3\n"
# What else is in a folder, by file name.
_FILES = {
    "space": {"app.py": _SPACE_APP, "requirements.txt": _REQUIREMENTS},
    "docker": {
        "app.py": _DOCKER_APP,
        "requirements.txt": f"{_REQUIREMENTS}waitress>=3.0\n",
        "Dockerfile": _DOCKERFILE,
    },
}
_USE = {
    "space": """Upload this folder to a Hugging Face Space, or run the page locally:

    pip install gradio -r requirements.txt
    python app.py
""",
    "docker": """    docker build -t classifier .
    docker run --rm -p 8000:8000 classifier
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

`GET /` returns the task and classes, and serves as a health check. Images may have up to 20 MB and 50 million pixels. Without Docker:

    pip install -r requirements.txt
    python app.py
""",
}


def write_folder(
    kind: Literal["space", "docker"], *, to: Path, onnx: Path, manifest: Manifest, title: str
) -> None:
    """Fill an empty folder; ``title`` is the heading of its ``README.md``."""
    for name, text in _FILES[kind].items():
        (to / name).write_text(text, encoding="utf-8")
    shutil.copyfile(onnx, to / MODEL_NAME)
    shutil.copyfile(runtime.__file__, to / RUNTIME_NAME)
    head = ""
    if kind == "space":
        # A JSON string is one of YAML, whatever is in it.
        heading = json.dumps("".join(filter(str.isprintable, title)))
        head = f"---\ntitle: {heading}\nsdk: gradio\nsdk_version: {_GRADIO}\napp_file: app.py\ntags:\n- vizsla\n---\n\n"
    classes = joined(list(map(as_code, manifest.vocab)), limit=_MOST_CLASSES)
    text = f"""{head}# {as_text(title)}

{TASKS[manifest.task].format(count=len(manifest.vocab))}

## Use

{_USE[kind]}
## Quality before export

{quality_text(manifest)}

## {"Numbers" if manifest.task == "regression" else "Classes"}

{classes}
"""
    (to / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")
