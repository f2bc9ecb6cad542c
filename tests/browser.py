"""A person's browser: a real headless Chromium that must do without any address but loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MILLISECONDS = 30_000
expect.set_options(timeout=MILLISECONDS)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, started once for some pages."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page(browser: Browser, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page with a session of its own; at its end it must have broken no rule of the service and found no error."""
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    opened.set_default_timeout(MILLISECONDS)
    outside: list[str] = []
    wrong: list[str] = []
    opened.on(
        "request", lambda asked: urlsplit(asked.url).hostname in (None, "", "127.0.0.1") or outside.append(asked.url)
    )
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: "Content Security Policy" in said.text and wrong.append(said.text))
    yield opened
    context.close()
    assert not outside and not wrong, (outside, wrong)
