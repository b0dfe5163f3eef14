"""The page of `pacx serve` in a real browser, as a person uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.data.dicom_files import dicom_bytes, make_dicom

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytest.importorskip("playwright", reason="the tests of the page drive a browser through playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("the tests of the page need chromium on the PATH", allow_module_level=True)

# Chromium reports every refused request as an error of the console; these are answers that the tests ask for.
EXPECTED = tuple(f"Failed to load resource: the server responded with a status of {code}" for code in (401, 415, 429))
CANVAS = """async () => {
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const canvas = document.getElementById("image");
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.height, canvas.width, Array.from(data)];
}"""


def picture(height: int = 96, width: int = 80) -> NDArray[np.uint16]:
    """Draw two dark fields on a bright ground, with a slope so that no two regions are alike."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    body = 45000 + 12000 * y + 6000 * x
    for centre in (0.3, 0.7):
        body -= 36000 * np.exp(-(((x - centre) / 0.13) ** 2) - ((y - 0.45) / 0.25) ** 2)
    return body.round().astype(np.uint16)


def png(pixels: NDArray[np.uint16]) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PNG = {"name": "chest.png", "mimeType": "image/png", "buffer": png(picture())}
OTHER = {"name": "other.png", "mimeType": "image/png", "buffer": png(picture(64, 112))}
DICOM = {
    "name": "chest.dcm",
    "mimeType": "application/dicom",
    "buffer": dicom_bytes(make_dicom(picture() >> 4, bits=12, ViewPosition="PA")),
}
TEXT = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"There is no image in here."}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser, for this file alone: while it is there its event loop occupies the thread, and no other may."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """The page, opened; afterwards: nothing in the console, nothing fetched from elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(20_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # A listener makes playwright intercept the chooser from now on; it would else start with the first wait for one,
    # and a chooser that opens at once would be missed.
    page.on("filechooser", lambda chooser: None)
    page.goto(server)
    page.wait_for_selector("#card:not([hidden])")
    yield page
    context.close()
    assert [fault for fault in faults if not fault.startswith(EXPECTED)] == []
    assert [url for url in asked if not url.startswith((f"{server}/", f"blob:{server}/"))] == []


def upload(page: Page, file: dict[str, Any]) -> None:
    page.set_input_files("#file", file)
    page.wait_for_selector("main[data-state=done]")


def canvas(page: Page) -> NDArray[np.uint8]:
    """Return what the canvas shows, (H, W, 4), after the next frame."""
    height, width, data = page.evaluate(CANVAS)
    return np.array(data, dtype=np.uint8).reshape(height, width, 4)


def tab_to(page: Page, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


def outputs(server: str) -> list[str]:
    with urlopen(f"{server}/v1/models") as answer:
        return [output["name"] for output in json.load(answer)["models"][0]["outputs"]]


def test_a_png_gives_the_findings_and_the_image(page: Page, server: str) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#drop")
    chooser.value.set_files(PNG)
    page.wait_for_selector("main[data-state=done]")
    assert page.locator(".findings li").count() == len(outputs(server)) > 0
    for verdict in page.locator(".verdict").all_inner_texts():
        assert verdict.startswith(("above threshold", "below threshold"))
    shown = canvas(page)
    assert shown.shape == (96, 80, 4)
    assert len(np.unique(shown[..., 0])) > 50
    page.wait_for_selector(".thumbnail img")
    assert "80 × 96 pixels" in page.inner_text("#facts")
    assert "Research use only. Not a medical device." in page.inner_text("aside")


def test_a_dicom_is_shown_with_its_view(page: Page) -> None:
    upload(page, DICOM)
    facts = page.inner_text("#facts")
    assert "DICOM" in facts
    assert "PA" in facts
    assert len(np.unique(canvas(page)[..., 0])) > 50


@pytest.mark.parametrize(
    "event", ["new DragEvent('drop', {dataTransfer: data})", "new ClipboardEvent('paste', {clipboardData: data})"]
)
def test_an_image_can_be_dropped_or_pasted_anywhere(page: Page, event: str) -> None:
    script = f"""bytes => {{
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "brought.png"));
        window.dispatchEvent({event});
    }}"""
    page.evaluate(script, list(PNG["buffer"]))
    page.wait_for_selector("main[data-state=done]")
    assert page.inner_text("#file-name") == "brought.png"


def test_bars_and_ticks_stand_where_the_numbers_say(page: Page) -> None:
    with page.expect_response("**/v1/explain*") as answer:
        upload(page, PNG)
    told = {output["name"]: output for output in answer.value.json()["results"][0]["outputs"]}
    bars = page.locator(".bar").evaluate_all(
        "bars => bars.map(bar => [bar, ...bar.children].map(part => part.getBoundingClientRect()))"
        ".map(([bar, fill, tick]) => [fill.width / bar.width, (tick.x + tick.width / 2 - bar.x) / bar.width])"
    )
    drawn = sorted(tuple(bar) for bar in bars)
    wanted = sorted((max(output["probability"], 0.0), output["threshold"]) for output in told.values())
    np.testing.assert_allclose(drawn, wanted, atol=0.01)


def test_a_text_file_is_refused_in_plain_words(page: Page) -> None:
    page.set_input_files("#file", TEXT)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "This is not an image that pacx can read." in alert.inner_text()
    assert "Choose one chest X-ray as DICOM, PNG, JPEG or TIFF." in alert.inner_text()
    upload(page, PNG)
    assert not alert.is_visible()


def test_without_overlay_the_canvas_is_the_rendered_image(page: Page, server: str) -> None:
    upload(page, PNG)
    page.fill("#opacity", "0")
    request = Request(f"{server}/v1/render", PNG["buffer"], {"Content-Type": "application/octet-stream"})
    with urlopen(request) as answer:
        rendered = np.frombuffer(answer.read(), "<u2").reshape(96, 80)
    shown = canvas(page)
    np.testing.assert_array_equal(shown[..., :3], np.repeat(np.floor(rendered / 65535 * 255 + 0.5)[..., None], 3, 2))
    page.fill("#opacity", "70")
    assert (canvas(page) != shown).any()


def test_the_window_follows_sliders_dragging_and_buttons(page: Page) -> None:
    upload(page, PNG)
    page.fill("#opacity", "0")
    start = canvas(page)
    page.fill("#centre", "80")
    assert canvas(page)[..., :3].mean() < start[..., :3].mean()
    page.click("#reset")
    np.testing.assert_array_equal(canvas(page), start)
    page.click("#invert")
    np.testing.assert_array_equal(canvas(page)[..., :3], 255 - start[..., :3])
    page.click("#reset")
    page.click("#fit")
    assert canvas(page)[..., 0].std() > start[..., 0].std()
    page.click("#reset")
    box = page.locator("#image").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.up()
    assert page.input_value("#centre") == "25"
    assert page.input_value("#width") == "75"
    assert page.get_attribute("#centre", "aria-valuetext") == "25 percent of the gray range"


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    tab_to(page, "#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(PNG)
    page.wait_for_selector("main[data-state=done]")
    start = canvas(page)
    tab_to(page, "#image")
    page.keyboard.press("ArrowUp")
    brighter = canvas(page)
    assert brighter.mean() > start.mean()
    tab_to(page, "#opacity")
    page.keyboard.press("End")
    assert (canvas(page) != brighter).any()
    tab_to(page, "#card > summary")
    page.keyboard.press("Enter")
    assert page.locator("#card table").is_visible()


def test_a_telephone_never_scrolls_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    too_wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(too_wide) == 0
    upload(page, {**PNG, "name": "a_very_long_name_without_any_blank_" * 4 + ".png"})
    page.click("#card > summary")
    page.click("#card-body summary")
    assert page.evaluate(too_wide) == 0
    page.set_input_files("#file", {**TEXT, "name": "another_long_name_without_any_blank_" * 4})
    page.get_by_role("alert").wait_for()
    assert page.evaluate(too_wide) == 0


@pytest.mark.parametrize(("most", "words"), [(2048, "may have up to 2 KiB"), (2**20, "may have up to 1 MiB")])
def test_a_file_that_is_too_large_is_refused_before_it_is_sent(page: Page, most: int, words: str) -> None:
    def bound(route: Route) -> None:
        answer = route.fetch()
        content = answer.json()
        content["limits"]["max_bytes"] = most
        route.fulfill(response=answer, json=content)

    page.route("**/v1/models", bound)
    page.reload()
    page.set_input_files("#file", {**PNG, "buffer": PNG["buffer"] + bytes(2**20)})
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert words in alert.inner_text()


def test_a_late_answer_does_not_replace_a_newer_one(page: Page) -> None:
    from playwright.sync_api import Error

    held: list[Route] = []

    def hold_the_first_upload(route: Route) -> None:
        if len(held) < 2:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/explain*", hold_the_first_upload)
    page.route("**/v1/render*", hold_the_first_upload)
    page.set_input_files("#file", PNG)
    while len(held) < 2:
        page.wait_for_timeout(20)
    upload(page, OTHER)
    for route in held:
        try:
            route.continue_()
        except Error:  # the page has cancelled it already, which is as good
            continue
    page.wait_for_timeout(300)
    assert "other.png" in page.inner_text("#facts")
    assert canvas(page).shape == (64, 112, 4)


def test_cancel_brings_the_empty_page_back(page: Page) -> None:
    page.route("**/v1/explain*", lambda route: None)
    page.set_input_files("#file", PNG)
    page.click("#cancel")
    page.wait_for_selector("main[data-state=empty]")
    assert page.locator("#viewer").is_hidden()
    assert page.inner_text("#status") == "Cancelled."


def test_a_busy_server_says_when_to_try_again(page: Page) -> None:
    def refuse(route: Route) -> None:
        problem = {"title": "Busy", "status": 429, "detail": "The queue is full."}
        headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
        route.fulfill(status=429, headers=headers, body=json.dumps(problem))

    page.route("**/v1/explain*", refuse, times=1)
    page.set_input_files("#file", PNG)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "The server is busy." in alert.inner_text()
    assert "wait 1 second." in alert.inner_text()
    alert.get_by_role("button", name="Try again").click()  # enabled when the second is over
    page.wait_for_selector("main[data-state=done]")
    assert not alert.is_visible()


def test_the_page_asks_for_the_token_and_sends_it(page: Page) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(status=401, headers={"WWW-Authenticate": "Bearer"}, body="{}")

    page.route("**/v1/**", guard)
    page.set_input_files("#file", PNG)
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.get_by_text("did not accept this token").wait_for()
    page.fill("#token", "sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector("main[data-state=done]")
    page.wait_for_selector(".thumbnail img")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
