"""The interface over real connections: answers are those of the predictor, and whatever is sent gets a clean answer."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vizsla import ConfigError, DataError, Predictor, Resize, TableError, grad_cam, read_fixes
from vizsla.evaluate import Novelty
from vizsla.model_file import save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone
from vizsla.serve import ASSETS, Corrections, FewLines, JsonLines, Limits, examples_of, formats_of

Draw = Callable[..., Image.Image]

SLOW = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n12"
"""The beginning of a request."""


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def image(draw: Draw) -> bytes:
    return file_of(draw("cross", number=7))


def probabilities(answer: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(list(answer["probabilities"].values()))


def test_a_prediction_is_that_of_the_predictor(client, predictor: Predictor, draw: Draw):
    data = file_of(draw("cross", number=3, size=(70, 90)), "JPEG")
    expected = predictor.predict(data)
    response = client.predict(("a.jpg", data))
    assert response.status == 200
    (answer,) = response.json["pictures"]
    assert answer["name"] == "a.jpg"
    assert answer["prediction"] == expected.label
    assert list(answer["probabilities"]) == list(predictor.vocab)
    assert torch.equal(probabilities(answer), expected.probabilities)
    assert [one["label"] for one in answer["top"]] == [label for label, _ in expected.top]
    assert set(answer) == {"name", "prediction", "probability", "top", "probabilities"}


def test_many_images_get_their_answers_in_order(client, predictor: Predictor, draw: Draw):
    files = [(f"{n}.png", file_of(draw(("cross", "disc")[n % 2], number=n))) for n in range(12)]
    answers = client.predict(*files).json["pictures"]
    assert [answer["name"] for answer in answers] == [name for name, _ in files]
    for (_, data), answer in zip(files, answers, strict=True):
        expected = predictor.predict(data).probabilities
        torch.testing.assert_close(probabilities(answer), expected, atol=1e-6, rtol=0)


def test_heic_is_taken_where_the_operator_says_so(client, serve, predictor: Predictor, draw: Draw):
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(draw("cross", number=3)).save(stream, quality=90)
    asked = {"body": stream.getvalue(), "headers": {"content-type": "image/heic"}}
    (answer,) = client.ask("POST", "/api/predict", **asked).json["pictures"]
    assert "HEIC" in answer["error"]
    with serve(Limits(requests_per_second=0, formats=formats_of(["heic"]))) as running:
        (answer,) = running.ask("POST", "/api/predict", **asked).json["pictures"]
    assert torch.equal(probabilities(answer), predictor.predict(stream.getvalue()).probabilities)


def test_a_body_may_be_an_image(client, predictor: Predictor, draw: Draw):
    data = file_of(draw("disc", number=1))
    headers = {"content-type": "image/png"}
    response = client.ask("POST", "/api/predict?name=one.png", body=data, headers=headers)
    (answer,) = response.json["pictures"]
    assert answer["name"] == "one.png"
    assert torch.equal(probabilities(answer), predictor.predict(data).probabilities)


def test_the_heat_map_is_grad_cam_of_the_predicted_class(client, predictor: Predictor, draw: Draw):
    data = file_of(draw("disc", number=2))
    (answer,) = client.predict(("a.png", data), query="?heat=1").json["pictures"]
    head, code = answer["heat"].split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(code))) as shown:
        assert shown.size == (64, 64)
        pixels = np.asarray(shown.convert("RGB")).astype(float)
    images = predictor.network_input([predictor.prepare(data)])
    heat = grad_cam(predictor.classifier, images)[0].numpy()
    difference = np.abs(pixels - 255 * images[0].permute(1, 2, 0).numpy()).mean(axis=2)
    assert difference[heat > 0.8].mean() > 3 * difference[heat < 0.05].mean()


def test_the_nearest_training_image_of_a_training_image_is_itself(client, known):
    data = known[2].path.read_bytes()
    (answer,) = client.predict(("a.png", data), query="?nearest=3").json["pictures"]
    similarities = [one["similarity"] for one in answer["nearest"]]
    assert similarities == sorted(similarities, reverse=True)
    assert len(similarities) == 3
    best = answer["nearest"][0]
    assert set(best) == {"label", "similarity", "picture"}
    assert best["label"] == "cross"
    assert best["picture"].startswith("data:image/jpeg;base64,")
    assert similarities[0] == pytest.approx(1, abs=1e-3)
    assert str(known[2].path.parent) not in json.dumps(answer)


def test_unreadable_images_have_their_place_and_their_cause(client, image: bytes):
    files = [("a.png", image), ("b.png", image[:-40]), ("c.txt", b"words"), ("d", b""), ("e.png", image)]  # fmt: skip
    response = client.predict(*files)
    assert response.status == 200
    causes = [answer.get("error", "") for answer in response.json["pictures"]]
    assert [bool(cause) for cause in causes] == [False, True, True, True, False]
    kinds = [answer.get("kind") for answer in response.json["pictures"]]
    assert kinds == [None, "damaged", "not an image", "not an image", None]
    assert "truncated" in causes[1]
    assert "text that begins with 'words'" in causes[2]
    assert "empty" in causes[3]
    nothing = client.predict(("c.txt", b"words"))
    assert nothing.status == 422
    assert "'words'" in nothing.json["pictures"][0]["error"]
    bomb = file_of(Image.new("1", (9000, 9000)))
    (answer,) = client.predict(("bomb.png", bomb)).json["pictures"]
    assert answer["error"] == "it has 9000 x 9000 pixels, more than 50 million"


def test_a_wrong_body_or_query_is_refused_in_words(client):
    form = "multipart/form-data; boundary=a"
    part = b"--a\r\nContent-Disposition: form-data; name="
    for kind, body, status, words in (
        ("application/json", b"{}", 415, "'application/json'"),
        ("text/html", b"<b>", 415, "'text/html'"),
        ("image/png", b"", 400, "body is empty"),
        ("multipart/form-data", b"x", 400, "boundary"),
        (form, b"x", 400, "form is damaged"),
        (form, b"--a--\r\n", 400, "has no file"),
        (form, part + b'"p"; filename="x"\r\n\r\nabc', 400, "cut off"),
        (form, part + b"x" * 9000, 400, "header"),
    ):
        response = client.ask("POST", "/api/predict", body=body, headers={"content-type": kind})
        assert response.status == status, body
        assert words in response.json["error"]
    for query in ("?heat=2", "?nearest=-1", "?nearest=99", "?heat=x", "?nearest=٣"):
        response = client.predict(("a.png", b"x"), query=quote(query, safe="?="))
        assert response.status == 400, query
        assert query[1:].partition("=")[0] in response.json["error"]


def test_a_body_over_the_limit_is_refused(serve):
    limits = Limits(requests_per_second=0, body_bytes=1000)
    with serve(limits) as client:
        headers = {"content-type": "image/png"}
        response = client.ask("POST", "/api/predict", body=b"x" * 300_000, headers=headers)
        assert response.status == 413
        assert "more than 0.001 MB" in response.json["error"]
        with client.connect() as connection:
            start = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(start + b"800\r\n" + b"x" * 0x800 + b"\r\n0\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
        assert client.ask("GET", "/health").status == 200
        with client.connect() as connection:  # who asks first need not send it
            connection.sendall(
                b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
                b"Expect: 100-continue\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_forms_never_touch_the_disk(client, image: bytes, monkeypatch: pytest.MonkeyPatch):
    def roll(_file: SpooledTemporaryFile[bytes]) -> None:
        raise AssertionError("a file was written")

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", roll)
    padded = image + bytes(9_000_000)
    response = client.predict(("a.png", padded), ("b.png", padded))
    assert response.status == 200
    assert len(response.json["pictures"]) == 2


def test_too_many_images_or_requests_are_refused(serve):
    with serve(Limits(requests_per_second=1, images=2)) as client:
        many = client.predict(*[("a.png", b"x")] * 3)
        assert many.status == 413
        assert "more than 2 images" in many.json["error"]
        statuses = [client.predict(("a", b"x")).status for _ in range(2)]
        refused = client.predict(("a", b"x"))
        assert statuses == [422, 429]
        assert refused.headers["retry-after"] == "1"
        assert client.ask("GET", "/").status == 200


def test_a_full_server_asks_to_try_again(serve, image: bytes):
    limits = Limits(requests_per_second=0, requests=1, seconds=5)
    with serve(limits) as client, client.connect() as slow:
        slow.sendall(SLOW)
        wait_until(lambda: b"vizsla_requests 1" in client.ask("GET", "/metrics").body)
        refused = client.predict(("a.png", image))
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        slow.sendall(b"3456789")
        assert slow.recv(1000).startswith(b"HTTP/1.1 422 ")
        assert client.predict(("a.png", image)).status == 200


def test_slow_clients_are_given_up(serve):
    limits = Limits(requests_per_second=0, seconds=0.3, header_seconds=0.3)
    with serve(limits) as client:
        with client.connect() as slow:
            slow.sendall(SLOW)
            answer = slow.recv(2000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5" in answer
            assert b"vizsla_requests 0" in client.ask("GET", "/metrics").body
        with client.connect() as silent, client.connect() as dripping:
            dripping.sendall(b"GET / HTTP/1.1\r\nHost: lo")
            assert silent.recv(100) == b""
            assert dripping.recv(100) == b""


def test_only_the_names_of_the_loopback_interface_are_served(client):
    foreign = ("evil.example", "localhost.evil.example", "evil.example:80", "[::2]", "192.168.1.1", "", "a b", "[x")  # fmt: skip
    for host in foreign:
        response = client.ask("GET", "/api/model", headers={"host": host})
        assert response.status == 421, host
        assert "Shapes" not in response.body.decode()
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80", "localhost."):
        assert client.ask("GET", "/health", headers={"host": host}).json == {"status": "ok"}, host


def test_only_the_own_page_can_send_images(client, image: bytes):
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9", "host": "localhost:8"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert client.predict(("a.png", b"x"), headers=headers).status == 403, headers
    own = {"origin": "http://localhost:8", "host": "localhost:8", "sec-fetch-site": "same-origin"}
    assert client.predict(("a.png", image), headers=own).status == 200


def test_every_answer_has_the_headers_that_hold_a_browser_back(client):
    for path in ("/", "/api/model", "/metrics", "/nowhere", "/api/predict"):
        headers = client.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_only_the_files_of_the_page_are_served(client):
    for path, (name, kind) in ASSETS.items():
        response = client.ask("GET", path)
        assert (response.status, response.headers["content-type"]) == (200, kind)
        assert response.body == (resources.files("vizsla.serve") / "static" / name).read_bytes()
    for path in ("/../app.py", "/static/app.js", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/etc/passwd", "/app.js/", "/index.html", "/app.py", "/..%5capp.py", "/app.js%00.png"):  # fmt: skip
        response = client.ask("GET", path)
        assert response.status == 404, path
        assert set(response.json) == {"error"}
    response = client.ask("DELETE", "/api/predict")
    assert (response.status, response.headers["allow"]) == (405, "POST")


def test_names_are_returned_as_text_on_one_line(client, image: bytes):
    odd = "../../etc/<b>\u202egpj\x07" + "n" * 300
    (answer,) = client.predict((odd, image)).json["pictures"]
    assert answer["name"].startswith(r"../../etc/<b>\u202egpj\x07nnn")
    assert len(answer["name"]) == 200


def test_the_model_says_what_it_is_and_what_is_taken(client):
    about = client.ask("GET", "/api/model").json
    assert about["title"] == "Shapes"
    assert about["vocab"] == ["cross", "disc", "Füchse"]
    assert about["architecture"] == "test_resnet"
    assert about["heat"] is True
    assert about["nearest"] == 8
    assert about["limits"]["body_bytes"] == 20_000_000
    assert about["limits"]["pixels"] == 50_000_000


def test_a_corrected_image_is_added_to_the_fixes_by_who_has_the_token(serve, image: bytes, tmp_path: Path):  # fmt: skip
    file = tmp_path / "fixes.csv"
    corrections = Corrections(
        file, vocab=("cross", "disc", "Füchse"), task="category", token="secret"
    )
    right = {"x-token": "secret", "content-type": "image/png"}

    with serve(corrections=corrections) as client:
        for label, body, headers, status in (
            ("disc", image, {"content-type": "image/png"}, 403),
            ("disc", image, {**right, "x-token": "guess"}, 403),
            ("disc", image, {**right, "origin": "http://elsewhere.example"}, 403),
            ("disk", image, right, 400),
            ("disc", b"no image", right, 422),
            ("disc", image, {**right, "content-type": "text/html"}, 415),
        ):
            assert client.ask("POST", f"/api/correct?label={label}", body=body, headers=headers).status == status  # fmt: skip
            assert not file.exists()
        for label in ("disc", "F%C3%BCchse"):
            assert client.ask("POST", f"/api/correct?label={label}", body=image, headers=right).status == 200  # fmt: skip
        assert client.ask("GET", "/api/model").json["corrections"] is True
        described = client.ask("GET", "/openapi.json").json["paths"]["/api/correct"]["post"]
    first, second = read_fixes(file)
    assert (first.action, first.label, second.label) == ("add", "disc", "Füchse")
    assert first.path == second.path
    assert Path(first.path).read_bytes() == image
    assert {"200", "403", "422"} <= set(described["responses"])
    file.write_text("path,action\ncat.jpg,eat\n")
    with pytest.raises(TableError, match="eat"):
        Corrections(file, vocab=("cross",), task="category")
    with pytest.raises(ConfigError, match="--fixes"):
        Corrections(file, vocab=("cross",), task="regression")


def test_examples_are_shown_without_what_the_camera_wrote(serve, known, tmp_path: Path):
    picture = Image.open(known[0].path)
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    picture.convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(b"broken")
    with serve(examples=examples_of(tmp_path)) as client:
        assert client.ask("GET", "/api/model").json["examples"] == 1
        answer = client.ask("GET", "/api/example?number=0")
        assert client.ask("GET", "/api/example?number=1").status == 400
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.body)).size == picture.size
    assert b"camera" not in answer.body
    with pytest.raises(DataError, match="--examples"):
        examples_of(tmp_path / "b.jpg")


def test_what_was_not_asked_for_is_not_there(client, image: bytes):
    about = client.ask("GET", "/api/model").json
    assert (about["examples"], about["corrections"]) == (0, False)
    assert client.ask("GET", "/api/example").status == 404
    headers = {"content-type": "image/png", "x-token": ""}
    assert client.ask("POST", "/api/correct?label=disc", body=image, headers=headers).status == 404


def test_the_description_names_every_call_and_only_status_codes_that_occur(client):
    described = client.ask("GET", "/openapi.json").json
    assert described["openapi"] == "3.1.0"
    assert set(described["paths"]) == {"/api/predict", "/api/model", "/health", "/metrics", "/openapi.json"}  # fmt: skip
    statuses = set(described["paths"]["/api/predict"]["post"]["responses"])
    assert statuses == {"200", "400", "403", "413", "415", "421", "422", "429", "503"}
    text = json.dumps(described)
    for reference in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert reference in described["components"]["schemas"]


def test_metrics_count_requests_images_and_batches(serve, image: bytes):
    with serve() as client:
        client.predict(("a.png", image), ("b", b"x"))
        client.ask("GET", "/made-up")
        response = client.ask("GET", "/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.body.decode().splitlines()
    assert 'vizsla_requests_total{route="/api/predict",status="200"} 1.0' in lines
    assert 'vizsla_requests_total{route="other",status="404"} 1.0' in lines
    assert 'vizsla_pictures_total{result="predicted"} 1.0' in lines
    assert 'vizsla_pictures_total{result="unreadable"} 1.0' in lines
    assert 'vizsla_batch_pictures_bucket{le="1.0"} 1.0' in lines
    assert "vizsla_predict_seconds_count 1.0" in lines
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    samples = {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")}
    assert {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in samples} == names  # fmt: skip


def test_many_clients_share_few_batches(serve, predictor: Predictor, draw: Draw):
    files = [file_of(draw("disc", number=number)) for number in range(24)]
    expected = [predictor.predict(data).probabilities for data in files]
    with serve() as client, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda data: client.predict(("a", data)).json, files))
        lines = client.ask("GET", "/metrics").body.decode().splitlines()
    for answer, wanted in zip(answers, expected, strict=True):
        found = probabilities(answer["pictures"][0])
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    batches = next(line for line in lines if line.startswith("vizsla_batch_pictures_count"))
    assert float(batches.split()[1]) < 24


def test_a_stopping_server_finishes_requests(serve, image: bytes):
    answers: list[bytes] = []

    def finish(connection: Any) -> None:
        time.sleep(0.3)
        connection.sendall(image[5:])
        answers.append(connection.recv(1000))

    with serve() as client:
        slow = client.connect()
        slow.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(image) + image[:5])  # fmt: skip
        wait_until(lambda: b"vizsla_requests 1" in client.ask("GET", "/metrics").body)
        thread = threading.Thread(target=finish, args=(slow,))
        thread.start()
    thread.join()
    slow.close()
    assert answers[0].startswith(b"HTTP/1.1 200 ")


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def trusted(serve: Any, calibrated: Predictor) -> Iterator[Any]:
    """A server of a model with a calibration."""
    with serve(using=calibrated) as client:
        yield client


def test_an_answer_has_label_set_and_familiarity(trusted, calibrated: Predictor, image: bytes):
    (answer,) = trusted.predict(("a.png", image)).json["pictures"]
    expected = calibrated.predict(image, coverage=0.9)
    assert expected.label_set is not None
    assert answer["label_set"] == list(expected.label_set)
    assert answer["coverage"] == 0.9
    assert answer["familiarity"] == expected.familiarity
    assert answer["none_of_these"] is expected.none_of_these is False
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)


def test_coverage_can_be_chosen(trusted, calibrated: Predictor, image: bytes):
    for coverage in ("0.5", ".995", "0.999999"):
        query = f"?coverage={coverage}"
        (answer,) = trusted.predict(("a.png", image), query=query).json["pictures"]
        expected = calibrated.predict(image, coverage=float(coverage)).label_set
        assert answer["label_set"] == list(expected or ())
        assert answer["coverage"] == float(coverage)
    numbers = ("0", "1", "0.0", "1.5", "-0.5", "0.9e-1", "0.12345678", "\u0660.\u0669")
    for coverage in (*numbers, "nan", "x", ""):
        response = trusted.predict(("a.png", image), query=f"?coverage={quote(coverage)}")
        assert response.status == 400, coverage
        assert response.json["error"].startswith("coverage ")


def test_a_foreign_image_is_like_none_of_the_classes(serve, calibrated: Predictor, image: bytes):
    calibration = calibrated.calibration
    assert calibration is not None
    novelty = Novelty(quantiles=(50.0, 90.0), threshold=60.0, num_pictures=20, separation=None)
    calibrated.calibration = replace(calibration, novelty=novelty)
    try:
        with serve(using=calibrated) as client:
            (answer,) = client.predict(("a.png", image)).json["pictures"]
    finally:
        calibrated.calibration = calibration
    assert answer["none_of_these"] is True
    assert answer["familiarity"] == 0.0


def test_a_model_without_a_calibration_says_nothing_of_it(client, image: bytes):
    (answer,) = client.predict(("a.png", image)).json["pictures"]
    assert not {"label_set", "coverage", "familiarity", "none_of_these"} & set(answer)
    refused = client.predict(("a.png", image), query="?coverage=0.9")
    assert refused.status == 400
    assert refused.json["error"] == "This model has no label sets. Leave out coverage."
    about = client.ask("GET", "/api/model").json
    assert about["calibration"] is None
    assert about["coverage"] is None
    described = client.ask("GET", "/openapi.json").json
    assert "label_set" not in described["components"]["schemas"]["Answer"]["properties"]
    names = [one["name"] for one in described["paths"]["/api/predict"]["post"]["parameters"]]
    assert "coverage" not in names


def test_the_description_has_every_field_of_an_answer_with_its_kind(trusted, image: bytes):
    kinds = {"string": str, "number": float, "array": list, "object": dict, "boolean": bool}
    (answer,) = trusted.predict(("a.png", image), query="?heat=1").json["pictures"]
    described = trusted.ask("GET", "/openapi.json").json
    fields = described["components"]["schemas"]["Answer"]["properties"]
    assert set(answer) <= set(fields)
    for name, value in answer.items():
        assert type(value) is kinds[fields[name]["type"]], name
    parameters = described["paths"]["/api/predict"]["post"]["parameters"]
    (coverage,) = (one for one in parameters if one["name"] == "coverage")
    assert coverage["schema"]["default"] == 0.9
    assert "holds the true label" in coverage["description"]
    about = trusted.ask("GET", "/api/model").json
    assert about["coverage"] == 0.9
    assert about["calibration"] == {
        "num_pictures": 40,
        "temperature": 2.0,
        "error_before": 0.2,
        "error_after": 0.1,
        "refused_share": 0.05,
        "separation": 0.75,
    }


def test_no_bytes_in_a_header_make_the_server_fail(client, image: bytes):
    draw = np.random.default_rng(11)
    names = ("host", "origin", "content-type", "content-length", "range", "accept", "accept-encoding", "connection", "expect", "transfer-encoding", "sec-fetch-site", "x-forwarded-for", "cookie", "if-none-match")  # fmt: skip
    values = [b"http://[", b"http://[::1", b"http://a:99999", b"[", b"//", b"multipart/form-data; boundary=", b"multipart/form-data; boundary*=utf-8''%ff", b"bytes=0-18446744073709551616", b"-1", b"1e9", b"\xff\xfe", b"\xe2\x80\xae", b"=?utf-8?b?/w==?="]  # fmt: skip
    statuses: set[int] = set()
    for name in names:
        for number in range(len(values) + 12):
            value = values[number] if number < len(values) else draw.integers(0, 256, 40, np.uint8).tobytes()  # fmt: skip
            headers = {"host": b"localhost", "content-type": b"image/png", "content-length": b"%d" % len(image), name: value}  # fmt: skip
            lines = [
                key.encode() + b": " + text.translate(None, b"\r\n")
                for key, text in headers.items()
            ]
            with client.connect() as connection:
                connection.sendall(b"POST /api/predict HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + image)  # fmt: skip
                connection.settimeout(0.3)
                answer = b""
                with suppress(TimeoutError, ConnectionError):  # It waits for a longer body.
                    answer = connection.recv(200)
            if answer:
                statuses.add(int(answer.split()[1]))
    assert statuses <= {200, 400, 403, 413, 415, 417, 421, 422, 431, 501}
    assert {200, 400, 403, 415, 421} <= statuses
    assert client.predict(("a.png", image), headers={"origin": "http://["}).status == 403
    assert client.predict(("a.png", image)).status == 200


def test_names_that_are_not_unicode_are_shown_with_escapes(
    serve, make_classifier: Any, tmp_path: Path, image: bytes
):
    vocab = ("caf\udce9", "b\x1b[2J")
    path = save_bundle(
        tmp_path / "m.safetensors",
        classifier=make_classifier(vocab),
        resize=Resize(64),
        notes="\udcff",
    )
    with serve(using=Predictor.load(path, device="cpu"), model=path) as client:
        for answer in (client.ask("GET", "/api/model"), client.predict(("a.png", image))):
            assert answer.status == 200
            assert rb"caf\\udce9" in answer.body
            assert msgspec.json.decode(answer.body)  # It takes valid Unicode only.


class Failing(nn.Module):
    """A body that fails, once it is told to, in the way that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.fail: Callable[[], object] = lambda: None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.fail()
        return self.layer(images)


def test_a_fault_is_logged_once_with_the_id_that_the_visitor_gets(
    serve, image: bytes, caplog: pytest.LogCaptureFixture
):
    body = Failing()
    classifier = Classifier(build_backbone(body), ConcatPoolHead(4, 2), vocab=("a", "b"))
    with serve(using=Predictor(classifier, resize=Resize(64))) as client:
        for fail, status, words in (
            (lambda: {}["\x1b[2J"], 500, "The server failed"),
            (lambda: torch.empty(2**50), 503, "not enough memory"),
        ):
            body.fail = fail
            caplog.clear()
            response = client.predict(("a.png", image))
            assert response.status == status
            assert words in response.json["error"]
            (number,) = re.findall(r"\(id ([0-9a-f]{8})\)", response.json["error"])
            (record,) = [record for record in caplog.records if record.name == "vizsla.serve"]
            line = JsonLines().format(record)
            assert line.isascii()
            assert line.isprintable()
            logged = json.loads(line)
            assert (logged["id"], logged["level"]) == (number, "error")
            assert (logged["method"], logged["path"]) == ("POST", "/api/predict")
            assert "in forward" in logged["traceback"]
        body.fail = lambda: None
        assert client.predict(("a.png", image)).status == 200


def test_visitors_cannot_fill_the_log():
    now = 0.0
    few = FewLines(clock=lambda: now)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "fault", None, None)
    assert sum(few.filter(record) for _ in range(1000)) == 20
    now = 3600.0
    assert few.filter(record)
    assert json.loads(JsonLines().format(record))["left_out"] == 980
