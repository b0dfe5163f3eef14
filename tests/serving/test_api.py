"""The HTTP service: right answers, and faults that say what is wrong."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.dicom_files import dicom_bytes, make_dicom
from tests.serving.models import GRID, SIZE, draw, png, save_classifier

pytest.importorskip("onnx")
pytest.importorskip("fastapi")

from starlette.requests import Request
from starlette.testclient import TestClient

from pacx.data.images import read_cxr
from pacx.errors import PacxError
from pacx.models.encoder import save_encoder
from pacx.serving.api import create_app
from pacx.serving.export import export
from pacx.serving.gallery import gallery_path
from pacx.serving.limits import Limits
from pacx.serving.problems import MEDIA_TYPE, Problem
from pacx.serving.runtime import OnnxModel
from pacx.serving.uploads import Uploads

TOKEN = "a-token-that-is-long-enough"
SMALL = Limits(max_bytes=20_000, max_pixels=100_000, max_files=3, decoders=1, body_seconds=1.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write a classifier with a gallery, and an encoder that crops."""
    from tests.serving.models import make_encoder

    folder = tmp_path_factory.mktemp("models")
    first, second = folder / "first.onnx", folder / "second.onnx"
    export(str(save_classifier(folder / "trained")), out=first, name="first")
    save_encoder(make_encoder(geometry="crop", seed=4), folder / "encoder")
    export(str(folder / "encoder"), out=second, name="second", attention=False)
    _write_gallery(first)
    return [first, second]


def _write_gallery(model: Path) -> None:
    opened = OnnxModel(model)
    images = np.stack([opened.facts.preprocess(_unit(seed)) for seed in range(6)])
    embedding = opened.run(images, want=("embedding",)).embedding
    assert embedding is not None
    mean = embedding.mean(axis=0)
    centred = embedding - mean
    arrays: dict[str, Any] = {
        "embedding": centred / np.linalg.norm(centred, axis=1, keepdims=True),
        "mean": mean,
        "thumbnail": np.zeros((6, 8, 8), np.uint8),
        "image_id": np.array([f"known-{seed}" for seed in range(6)]),
        "label": np.array([[seed % 2, np.nan] for seed in range(6)], np.float32),
        "label_name": np.array(["effusion", "nodule"]),
        "weights_hash": np.array(opened.facts.weights_hash),
    }
    with gallery_path(model).open("wb") as file:
        np.savez(file, **arrays)


def _unit(seed: int) -> np.ndarray:
    return draw(seed=seed).astype(np.float32) / 255


@pytest.fixture(scope="module")
def client(models: list[Path]) -> Iterator[TestClient]:
    app = create_app([OnnxModel(path) for path in models], limits=SMALL)
    with TestClient(app, raise_server_exceptions=False) as client:
        _wait_until_ready(client)
        yield client


def _wait_until_ready(client: TestClient) -> None:
    end = time.monotonic() + 20
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end, "the server does not become ready"
        time.sleep(0.02)


def form(*files: bytes) -> dict[str, Any]:
    return {"files": [("file", ("secret-name.dcm", data, "text/plain")) for data in files]}


def fault(response: Any, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    problem: dict[str, Any] = response.json()
    assert (problem["status"], problem["type"]) == (status, f"urn:pacx:{kind}")
    return problem


class TestAnswers:
    def test_predictions_are_the_models_with_names_and_thresholds(self, client: TestClient, models: list[Path]) -> None:
        files = [png(seed=1), dicom_bytes(make_dicom(draw(70, 60, dtype=np.uint16) >> 4, bits=12, ViewPosition="PA"))]
        answer = client.post("/v1/predict", **form(*files))
        assert answer.status_code == 200
        opened = OnnxModel(models[0])
        images = np.stack([opened.facts.preprocess(read_cxr(file).pixels) for file in files])
        expected = opened.run(images, want=("probability",)).probability
        assert expected is not None
        content = answer.json()
        assert content["model"] == "first"
        for result, row in zip(content["results"], expected, strict=True):
            assert [output["name"] for output in result["outputs"]] == ["effusion", "nodule"]
            np.testing.assert_allclose([output["probability"] for output in result["outputs"]], row, atol=1e-5)
            assert [output["positive"] for output in result["outputs"]] == list(row >= 0.4)
        facts = [result["image"] for result in content["results"]]
        assert [(one["format"], one["height"], one["width"], one["view"]) for one in facts] == [
            ("PNG", 50, 40, None), ("DICOM", 70, 60, "PA"),
        ]  # fmt: skip

    def test_a_bare_body_is_the_same_as_a_form(self, client: TestClient) -> None:
        data = png(seed=2)
        bare = client.post("/v1/predict", content=data, headers={"content-type": "application/octet-stream"})
        assert bare.json() == client.post("/v1/predict", **form(data)).json()

    def test_features_are_the_named_models(self, client: TestClient, models: list[Path]) -> None:
        content = client.post("/v1/features", params={"model": "second"}, **form(png(seed=3))).json()
        opened = OnnxModel(models[1])
        image = opened.facts.preprocess(_unit(3))[None]
        expected = opened.run(image, want=("embedding",)).embedding
        assert content["model"] == "second"
        np.testing.assert_allclose(content["results"][0]["features"], expected[0], atol=1e-5)  # type: ignore[index]

    def test_an_explanation_has_attention_and_neighbours(self, client: TestClient) -> None:
        (result,) = client.post("/v1/explain", **form(png(seed=4))).json()["results"]
        grid = np.array(result["attention"]["grid"])
        assert grid.shape == (GRID, GRID)
        assert grid.sum() == pytest.approx(1, abs=1e-4)
        assert result["attention"]["geometry"] == "squash"
        nearest = result["neighbours"][0]
        assert (nearest["id"], nearest["labels"]) == ("known-4", {"effusion": 0.0, "nodule": None})
        assert nearest["similarity"] == pytest.approx(1, abs=1e-3)
        picture = client.get(nearest["thumbnail"])
        assert picture.headers["content-type"] == "image/png"
        assert read_cxr(picture.content).pixels.shape == (8, 8)
        (bare,) = client.post("/v1/explain?model=second", **form(png(seed=4))).json()["results"]
        assert (bare["attention"], bare["neighbours"], bare["outputs"]) == (None, [], [])

    def test_a_rendered_image_is_the_gray_that_was_read(self, client: TestClient) -> None:
        picture = draw(30, 20, dtype=np.uint16)
        answer = client.post("/v1/render", **form(png(picture)))
        assert (answer.headers["x-image-height"], answer.headers["x-image-width"]) == ("30", "20")
        assert (answer.headers["x-source-height"], answer.headers["x-source-width"]) == ("30", "20")
        found = np.frombuffer(answer.content, "<u2").reshape(30, 20)
        np.testing.assert_allclose(found, picture, atol=1)

    def test_models_are_described(self, client: TestClient) -> None:
        content = client.get("/v1/models").json()
        first, second = content["models"]
        assert (first["name"], first["kind"], first["neighbours"]) == ("first", "classifier", 6)
        assert (second["name"], second["kind"], second["neighbours"]) == ("second", "encoder", 0)
        assert first["outputs"][0]["auroc"] == 0.8
        assert "Not a medical device" in first["intended_use"]
        assert len(first["sha256"]) == 64
        assert first["image_size"] == SIZE
        assert content["limits"] == {"max_bytes": 20_000, "max_pixels": 100_000, "max_files": 3}

    def test_requests_batches_and_images_are_counted(self, client: TestClient) -> None:
        client.post("/v1/predict", **form(png(seed=1)))
        lines = client.get("/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert float(values['pacx_requests_total{path="/v1/predict",status="200"}']) >= 1
        assert float(values['pacx_images_total{model="first"}']) >= 1
        assert float(values['pacx_batch_size_count{model="first"}']) >= 1
        assert float(values["pacx_held_bytes"]) == 0

    def test_the_page_and_nothing_else_comes_from_disk(self, client: TestClient) -> None:
        assert "pacx" in client.get("/").text
        assert "javascript" in client.get("/page/app.js").headers["content-type"]
        for path in ("/page/absent.js", "/page/..%2Fapi.py", "/page/%2e%2e/api.py"):
            assert client.get(path).status_code == 404


class TestFaults:
    def test_what_is_no_image_is_named_with_its_number(self, client: TestClient) -> None:
        problem = fault(client.post("/v1/predict", **form(png(), b"plain text")), 415, "unknown-format")
        assert problem["file"] == 1
        assert "DICOM, PNG, JPEG and TIFF" in problem["detail"]
        assert "secret-name" not in json.dumps(problem)

    def test_a_damaged_image_is_422(self, client: TestClient) -> None:
        problem = fault(client.post("/v1/predict", **form(png()[:300])), 422, "unreadable")
        assert problem["file"] == 0
        assert problem["detail"].endswith("damaged, truncated or of a kind that is not supported.")

    def test_too_many_pixels_by_the_header_are_413(self, client: TestClient) -> None:
        problem = fault(client.post("/v1/predict", **form(png(np.zeros((500, 500), np.uint8)))), 413, "too-large")
        assert "500 rows x 500 columns" in problem["detail"]

    def test_too_many_bytes_are_413_in_form_and_body(self, client: TestClient) -> None:
        big = bytes(30_000)
        assert "20,000" in fault(client.post("/v1/predict", **form(big)), 413, "too-large")["detail"]
        bare = client.post("/v1/predict", content=big, headers={"content-type": "image/png"})
        assert "20,000" in fault(bare, 413, "too-large")["detail"]
        declared = {"content-type": "image/png", "content-length": "99999999999"}
        assert fault(client.post("/v1/predict", content=b"", headers=declared), 413, "too-large")

    @pytest.mark.parametrize(
        ("most", "words"),
        [(500, "500 bytes."), (50_000, "50,000 bytes (48.8 KiB)."), (64 * 2**20, "67,108,864 bytes (64 MiB).")],
    )
    def test_the_most_bytes_are_said_in_a_fitting_unit(self, most: int, words: str) -> None:
        with pytest.raises(Problem) as caught:
            Uploads(Limits(max_bytes=most))._checked(bytes(most + 1), 0)

        assert caught.value.detail == f"A file may have up to {words}"

    def test_too_many_files_are_413(self, client: TestClient) -> None:
        assert "At most 3" in fault(client.post("/v1/predict", **form(*[png()] * 4)), 413, "too-many-files")["detail"]

    def test_one_file_alone_is_rendered(self, client: TestClient) -> None:
        assert fault(client.post("/v1/render", **form(png(), png())), 413, "too-many-files")

    def test_a_form_without_an_image_is_422(self, client: TestClient) -> None:
        assert fault(client.post("/v1/predict", files={"file": b""}), 422, "no-file")

    @pytest.mark.parametrize("name", ["model", "other", "files", "n\u00f6"])
    def test_a_form_field_that_is_not_known_is_422_and_named(self, client: TestClient, name: str) -> None:
        problem = fault(client.post("/v1/predict", data={name: "second"}, **form(png())), 422, "unknown-field")
        assert f"called '{name}'" in problem["detail"]
        assert "allowed: parts called `file`" in problem["detail"]
        assert "?model=NAME" in problem["detail"]
        assert "second" not in problem["detail"]

    def test_a_part_without_a_name_is_422(self, client: TestClient) -> None:
        body = b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n--b--\r\n"
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert fault(client.post("/v1/predict", content=body, headers=kind), 422, "unknown-field")

    @pytest.mark.parametrize("place", ["predict", "features", "explain", "render"])
    def test_a_query_parameter_that_is_not_known_is_422_and_named(self, client: TestClient, place: str) -> None:
        problem = fault(client.post(f"/v1/{place}?Model=second", **form(png())), 422, "unknown-parameter")
        assert "'Model'" in problem["detail"]
        assert ("allowed: none" if place == "render" else "allowed: `model`") in problem["detail"]
        assert fault(client.get("/v1/models?x"), 422, "unknown-parameter")
        assert fault(client.get("/v1/models/first/neighbours/0.png?size=9"), 422, "unknown-parameter")

    def test_two_models_cannot_be_named(self, client: TestClient) -> None:
        assert fault(client.post("/v1/predict?model=first&model=second", **form(png())), 422, "unknown-parameter")

    def test_an_array_is_told_what_the_server_takes(self, client: TestClient) -> None:
        stream = BytesIO()
        np.save(stream, draw())
        detail = fault(client.post("/v1/predict", **form(stream.getvalue())), 415, "unknown-format")["detail"]
        assert "NumPy" in detail
        assert "DICOM, PNG, JPEG and TIFF" in detail
        assert "::" not in detail

    def test_an_empty_body_is_422(self, client: TestClient) -> None:
        assert fault(client.post("/v1/predict", content=b"", headers={"content-type": "image/png"}), 422, "no-file")

    @pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "multipart/mixed; boundary=x"])
    def test_another_content_type_is_415(self, client: TestClient, kind: str) -> None:
        answer = client.post("/v1/predict", content=b"x", headers={"content-type": kind})
        assert fault(answer, 415, "unknown-content-type")

    @pytest.mark.parametrize(
        "body",
        [b"", b"garbage", b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf", b"--b\r\n" + b"a" * 99],
    )  # fmt: skip
    def test_a_broken_form_is_400(self, client: TestClient, body: bytes) -> None:
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert fault(client.post("/v1/predict", content=body, headers=kind), 400, "malformed")

    def test_a_form_without_boundary_is_400(self, client: TestClient) -> None:
        answer = client.post("/v1/predict", content=b"x", headers={"content-type": "multipart/form-data"})
        assert fault(answer, 400, "malformed")

    def test_unknown_models_places_and_methods(self, client: TestClient) -> None:
        problem = fault(client.post("/v1/predict?model=third", **form(png())), 404, "no-such-model")
        assert "first, second" in problem["detail"]
        assert fault(client.get("/v1/nothing"), 404, "not-found")
        answer = client.get("/v1/predict")
        assert fault(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "POST"
        assert fault(client.get("/v1/models/first/neighbours/6.png"), 404, "not-found")
        assert fault(client.get("/v1/models/second/neighbours/0.png"), 404, "not-found")
        assert fault(client.get("/v1/models/first/neighbours/x.png"), 422, "invalid")

    def test_an_encoder_predicts_nothing(self, client: TestClient) -> None:
        assert fault(client.post("/v1/predict?model=second", **form(png())), 422, "no-head")

    def test_a_slow_body_is_ended(self, client: TestClient) -> None:
        started = time.monotonic()
        messages = asyncio.run(_slowly(client.app))
        assert time.monotonic() - started < 4
        assert messages[0]["status"] == 408


async def _slowly(app: Any) -> list[dict[str, Any]]:
    """Send the headers and the first byte of an upload, and then nothing."""
    sent: list[dict[str, Any]] = []
    first = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not first.is_set():
            first.set()
            return {"type": "http.request", "body": b"x", "more_body": True}
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"content-type", b"image/png")]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("testserver", 80),
        "client": ("127.0.0.1", 1), "root_path": "", "state": {},
    }  # fmt: skip
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return sent


class TestBackPressure:
    def test_more_requests_than_allowed_are_told_to_come_back(self, models: list[Path]) -> None:
        app = create_app([OnnxModel(models[0])], limits=Limits(max_requests=1, decoders=1))
        with TestClient(app) as client:
            _wait_until_ready(client)
            app.state.service.uploads.requests = 1
            answer = client.post("/v1/predict", **form(png()))
            assert fault(answer, 429, "busy")
            assert int(answer.headers["retry-after"]) >= 1
            app.state.service.uploads.requests = 0
            assert client.post("/v1/predict", **form(png())).status_code == 200

    def test_uploads_that_would_not_fit_into_memory_are_told_to_come_back(self, models: list[Path]) -> None:
        app = create_app([OnnxModel(models[0])], limits=Limits(max_body_memory=500, decoders=1))
        with TestClient(app) as client:
            _wait_until_ready(client)
            assert fault(client.post("/v1/predict", **form(png())), 429, "busy")
            assert app.state.service.uploads.held == 0

    def test_a_full_queue_is_429_before_anything_is_decoded(self, models: list[Path]) -> None:
        app = create_app([OnnxModel(models[0])], limits=Limits(queue_size=1, decoders=1))
        with TestClient(app) as client:
            _wait_until_ready(client)
            assert fault(client.post("/v1/predict", **form(png(), png())), 429, "busy")

    def test_an_answer_that_takes_too_long_is_503(self, models: list[Path]) -> None:
        app = create_app([OnnxModel(models[0])], limits=Limits(request_seconds=0.001, decoders=1))
        with TestClient(app) as client:
            _wait_until_ready(client)
            answer = client.post("/v1/predict", **form(png()))
            assert fault(answer, 503, "timed-out")
            assert answer.headers["retry-after"] == "5"

    def test_a_server_that_starts_or_stops_is_not_ready(self, models: list[Path]) -> None:
        app = create_app([OnnxModel(models[0])], limits=Limits(decoders=1))
        with TestClient(app) as client:
            _wait_until_ready(client)
            app.state.service.draining = True
            assert fault(client.get("/readyz"), 503, "stopping")
            assert client.get("/healthz").status_code == 200
            assert client.post("/v1/predict", **form(png())).status_code == 200


@pytest.fixture(scope="module")
def guarded(models: list[Path]) -> Iterator[TestClient]:
    app = create_app(
        [OnnxModel(models[0])], limits=Limits(decoders=1), tokens=[TOKEN, TOKEN + "-2"], hosts=["testserver"]
    )
    with TestClient(app) as client:
        _wait_until_ready(client)
        yield client


class TestSecurity:
    def test_answers_want_a_token_and_the_page_does_not(self, guarded: TestClient) -> None:
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            answer = guarded.get(path)
            assert fault(answer, 401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
            for wrong in ("Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer"):
                assert guarded.get(path, headers={"authorization": wrong}).status_code == 401
            for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}-2"):
                assert guarded.get(path, headers={"authorization": right}).status_code == 200
        for path in ("/", "/page/app.js", "/healthz"):
            assert guarded.get(path).status_code == 200

    def test_other_names_and_other_sites_are_refused(self, guarded: TestClient) -> None:
        assert fault(guarded.get("/healthz", headers={"host": "evil.example"}), 400, "unknown-host")
        assert guarded.get("/healthz", headers={"host": "testserver:8000"}).status_code == 200
        assert fault(guarded.get("/healthz", headers={"origin": "https://evil.example"}), 403, "other-origin")
        assert guarded.get("/healthz", headers={"origin": "http://testserver"}).status_code == 200

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 401),
            ({"authorization": f"Bearer {TOKEN}-wrong"}, 401),
            ({"origin": "https://evil.example"}, 403),
            ({"host": "evil.example"}, 400),
        ],
    )
    def test_what_is_refused_is_logged_and_counted(
        self, guarded: TestClient, caplog: pytest.LogCaptureFixture, headers: dict[str, str], status: int
    ) -> None:
        with caplog.at_level("INFO", logger="pacx"):
            guarded.post("/v1/predict?model=DOE", headers=headers, **form(png()))
            guarded.get("/v1/models/DOE/neighbours/7.png", headers=headers)
            guarded.get("/DOE", headers=headers)
        lines = [record.getMessage().rsplit(" ", 2)[0] for record in caplog.records if record.name == "pacx"]
        assert lines == [
            f"POST /v1/predict {status}",
            f"GET /v1/models/{{name}}/neighbours/{{number}}.png {status}",
            f"GET other {404 if status == 401 else status}",
        ]
        for secret in (TOKEN, "evil", "DOE", "secret-name"):
            assert secret not in caplog.text
        counters = guarded.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
        assert f'pacx_requests_total{{path="/v1/predict",status="{status}"}}' in counters

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/v1/models", "/metrics", "/page/app.js"])
    def test_head_is_answered_as_get_without_a_body(self, guarded: TestClient, path: str) -> None:
        token = {"authorization": f"Bearer {TOKEN}"}
        head, get = guarded.head(path, headers=token), guarded.get(path, headers=token)
        assert (head.status_code, head.content) == (200, b"")
        if path == "/metrics":  # which counts its own requests
            get.headers["content-length"] = head.headers["content-length"]
        assert head.headers == get.headers
        assert guarded.head(path).status_code == guarded.get(path).status_code
        assert guarded.head(path, headers={"host": "evil.example"}).status_code == 400

    def test_head_is_among_the_methods_that_are_allowed(self, client: TestClient) -> None:
        answer = client.delete("/healthz")
        assert fault(answer, 405, "method-not-allowed")
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert fault(client.get("/v1/predict"), 405, "method-not-allowed")
        assert client.head("/v1/predict").status_code == 405
        described = client.get("/openapi.json").json()["paths"]
        assert set(described["/healthz"]) == {"get"}

    @pytest.mark.parametrize("path", ["/", "/page/app.js", "/v1/models", "/healthz", "/nothing"])
    def test_every_answer_has_the_headers(self, client: TestClient, path: str) -> None:
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]

    def test_nothing_of_an_upload_is_logged(self, client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
        dicom = dicom_bytes(make_dicom(draw(30, 30), bits=8, PatientName="DOE^JANE", PatientID="12345-67"))
        with caplog.at_level("DEBUG"):
            answer = client.post("/v1/explain", **form(dicom))
            client.post("/v1/explain", **form(dicom[:-200]))
        for secret in ("DOE", "JANE", "12345-67", "secret-name"):
            assert secret not in caplog.text
            assert secret not in answer.text


@pytest.mark.parametrize("name", ["a b/c", "50 %", "x?y#z", "größe"])
def test_links_hold_for_any_name_that_a_file_may_have(models: list[Path], name: str) -> None:
    opened = OnnxModel(models[0])
    opened.facts = replace(opened.facts, name=name)
    with TestClient(create_app([opened], limits=Limits(decoders=1))) as client:
        _wait_until_ready(client)
        answer = client.post("/v1/explain", params={"model": name}, **form(png(seed=4)))
        (result,) = answer.json()["results"]
        link = result["neighbours"][0]["thumbnail"]
        assert link.isascii()
        assert " " not in link
        assert client.get(link).headers["content-type"] == "image/png"


def test_two_models_of_one_name_are_refused(models: list[Path]) -> None:
    with pytest.raises(PacxError, match="Two models are called 'first'"):
        create_app([OnnxModel(models[0]), OnnxModel(models[0])])


def test_a_gallery_of_another_encoder_is_refused(models: list[Path]) -> None:
    other = gallery_path(models[1])
    other.write_bytes(gallery_path(models[0]).read_bytes())
    try:
        with pytest.raises(PacxError, match="belongs to another encoder"):
            create_app([OnnxModel(models[1])])
    finally:
        other.unlink()


def test_the_description_names_every_fault(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    for path in ("/v1/predict", "/v1/features", "/v1/explain", "/v1/render"):
        post = described["paths"][path]["post"]
        assert {"400", "401", "404", "408", "413", "415", "422", "429", "503"} <= set(post["responses"])
        assert "multipart/form-data" in post["requestBody"]["content"]
    assert "ProblemAnswer" in described["components"]["schemas"]
    assert "HTTPValidationError" not in described["components"]["schemas"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_that_is_too_large_is_read_to_its_end_and_not_beyond(whole: bool) -> None:
    messages = [{"type": "http.request", "body": bytes(60_000), "more_body": not whole}]
    messages += [] if whole else [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, object]:
        return messages.pop(0)  # fails where more is asked for than there is

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}
    with pytest.raises(Problem, match="up to 20,000 bytes"):
        asyncio.run(Uploads(SMALL).read(Request(scope, receive)))
    assert not messages


def test_a_bug_is_answered_guarded_counted_and_logged_without_the_address(
    models: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("never meant to happen")

    with TestClient(create_app([OnnxModel(models[0])], limits=SMALL), raise_server_exceptions=False) as client:
        _wait_until_ready(client)
        monkeypatch.setattr("pacx.serving.api._card", fail)
        caplog.set_level("INFO", logger="pacx")
        answer = client.get("/v1/models")
        counters = client.get("/metrics").text
    assert fault(answer, 500, "bug")["title"] == "The server failed."
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert re.search(r'path="/v1/models",status="500"\} 1\.0', counters)
    assert "never meant to happen" in caplog.text
    assert re.search(r"GET /v1/models 500 \d+ ms", caplog.text)
