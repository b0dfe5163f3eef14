"""Decoding in processes of its own: the same numbers as in training, and nobody's fault but the file's."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.dicom_files import dicom_bytes, make_dicom
from tests.serving.models import draw, make_encoder, png

from pacx.data.images import read_cxr
from pacx.preprocess import Geometry, Preprocess
from pacx.serving.decode_worker import answer, unpack
from pacx.serving.decoding import DecodePool
from pacx.serving.limits import Limits
from pacx.serving.problems import Problem

SECRET = "DOE^JANE^SECRET"


def jpeg(picture: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90)
    return stream.getvalue()


FILES = {
    "8-bit PNG": png(draw(50, 40)),
    "16-bit PNG": png(draw(333, 251, dtype=np.uint16)),
    "odd JPEG": jpeg(draw(101, 77)),
    "one row": png(draw(1, 65)),
    "12-bit DICOM": dicom_bytes(make_dicom(draw(64, 90, dtype=np.uint16) >> 4, bits=12, PatientName=SECRET)),
    "inverted DICOM": dicom_bytes(
        make_dicom(draw(64, 90, dtype=np.uint16) >> 2, bits=14, PhotometricInterpretation="MONOCHROME1")
    ),
    "window DICOM": dicom_bytes(make_dicom(draw(70, 70), bits=8, WindowCenter=100, WindowWidth=120)),
}


def decoded(data: bytes, **facts: Any) -> tuple[dict[str, Any], bytes]:
    settings = {"preprocess": None, "max_pixels": 10**6, "render": None, **facts}
    message = b"".join(answer(settings, data))
    found, rest = unpack(message[8:])
    return found, bytes(rest)


@pytest.mark.parametrize("geometry", ["squash", "crop", "pad"])
@pytest.mark.parametrize("name", FILES)
def test_the_server_feeds_a_model_as_training_does(name: str, geometry: Geometry, tmp_path: Path) -> None:
    encoder = make_encoder(geometry=geometry)
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    expected = encoder.prepare([path]).numpy()[0]
    found, rest = decoded(FILES[name], preprocess=encoder.config.preprocess.to_dict())
    values = np.frombuffer(rest, np.float32).reshape(found["shape"])
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert SECRET not in str(found)


def test_a_picture_keeps_its_proportions_and_polarity() -> None:
    found, rest = decoded(FILES["inverted DICOM"], render=45)
    picture = np.frombuffer(rest, "<u2").reshape(found["rendered"])
    assert picture.shape == (32, 45)
    whole = read_cxr(FILES["inverted DICOM"]).pixels
    assert np.corrcoef(picture[::8, ::9].ravel(), whole[::16, ::18].ravel())[0, 1] > 0.9
    small, _ = decoded(FILES["8-bit PNG"], render=1024)
    assert small["rendered"] == [50, 40]


@pytest.mark.parametrize(
    ("data", "fault", "words"),
    [
        (b"just text", "unknown-format", "DICOM, PNG, JPEG and TIFF"),
        (png(draw(1100, 1000)), "too-large", "1,100 rows x 1,000 columns"),
        (FILES["8-bit PNG"][:200], "unreadable", "damaged"),
        (FILES["12-bit DICOM"][:700], "unreadable", ""),
    ],
)
def test_faults_are_told_apart_without_quoting_the_file(data: bytes, fault: str, words: str) -> None:
    found, _ = decoded(data)
    assert found["fault"] == fault
    assert words in found["detail"]
    assert "just text" not in found["detail"]
    assert SECRET not in found["detail"]


def with_pool(use: Callable[[DecodePool], Awaitable[None]], **limits: Any) -> None:
    async def run() -> None:
        pool = DecodePool(Limits(decoders=1, **limits))
        await pool.start()
        try:
            await use(pool)
        finally:
            await pool.stop()

    asyncio.run(run())


def test_the_pool_decodes_and_tells_faults_by_status() -> None:
    async def use(pool: DecodePool) -> None:
        preprocess = Preprocess(32)
        found = await pool.decode(FILES["12-bit DICOM"], preprocess=preprocess, render=20)
        assert found.image["format"] == "DICOM"
        assert found.values is not None
        np.testing.assert_allclose(found.values, preprocess(read_cxr(FILES["12-bit DICOM"]).pixels), atol=1e-6)
        assert found.rendered is not None
        assert found.rendered.shape == (14, 20)
        for data, status in ((b"text", 415), (FILES["8-bit PNG"][:200], 422)):
            with pytest.raises(Problem) as caught:
                await pool.decode(data, preprocess=preprocess)
            assert caught.value.status == status
        assert pool.killed == 0

    with_pool(use)


def test_a_file_that_takes_too_long_costs_its_process_and_nobody_else() -> None:
    async def use(pool: DecodePool) -> None:
        (worker,) = pool._all
        os.kill(worker.process.pid, signal.SIGSTOP)  # as a decoder that hangs
        with pytest.raises(Problem, match=r"longer than 0\.5 seconds"):
            await pool.decode(FILES["8-bit PNG"], render=10)
        assert pool.killed == 1
        assert (await pool.decode(FILES["8-bit PNG"], render=10)).rendered is not None

    with_pool(use, decode_seconds=0.5)


def _wake(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def test_a_decoder_that_dies_is_replaced() -> None:
    async def use(pool: DecodePool) -> None:
        for number in (signal.SIGKILL, signal.SIGSEGV):
            (worker,) = pool._all
            # Stopped, it cannot finish before the end comes.
            os.kill(worker.process.pid, signal.SIGSTOP)
            os.kill(worker.process.pid, number)
            asyncio.get_running_loop().call_later(0.1, _wake, worker.process.pid)
            with pytest.raises(Problem, match="gave up") as caught:
                await pool.decode(FILES["8-bit PNG"], render=10)
            assert caught.value.status == 422
            assert (await pool.decode(FILES["8-bit PNG"], render=10)).rendered is not None

    with_pool(use)


def test_a_request_that_goes_away_leaves_the_pool_whole() -> None:
    async def use(pool: DecodePool) -> None:
        for _ in range(3):
            task = asyncio.create_task(pool.decode(FILES["16-bit PNG"], render=100))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(5):
            assert (await pool.decode(FILES["8-bit PNG"], render=10)).rendered is not None
        assert pool.killed == 0

    with_pool(use)


def test_decoders_do_not_get_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACX_TOKEN", "a-secret-that-nobody-else-needs")

    async def use(pool: DecodePool) -> None:
        (worker,) = pool._all
        environment = Path(f"/proc/{worker.process.pid}/environ")
        if not environment.exists():
            pytest.skip("no /proc here")
        assert b"a-secret" not in environment.read_bytes()

    with_pool(use)
