"""A browser for the pages; where there is none, the tests that need one are skipped."""

from __future__ import annotations

import shutil

import pytest

# The page needs nothing else, and neither shall the browser ask for anything.
ARGUMENTS = [
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What labels are written where, in device pixels of the canvas
SPY = """
window.labels = {};
const fillText = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  window.labels[text] = [x, y];
  fillText.call(this, text, x, y);
};
"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("chromium is not installed; no page is opened")
    with api.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """open_page(path, **options of a context) -> Playwright's page. At the end of the test no page may
    have asked for anything but its own file, warned, or failed."""
    contexts, faults = [], []

    def make(path, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1320, "height": 700}, "offline": True, **options}
        )
        contexts.append(context)
        context.add_init_script(SPY)
        context.set_default_timeout(5000)
        page, address = context.new_page(), path.as_uri()
        page.on(
            "request", lambda r: r.url == address or r.url[:5] == "data:" or faults.append(r.url)
        )
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(address)
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []
