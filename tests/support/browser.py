"""A real headless Chromium for tests, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Two shared cores draw slowly; what never comes is told apart from what comes late.
PATIENCE_MILLISECONDS = 60_000


def executable() -> str:
    """Where Chromium is. Fails, naming the package to install, if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise AssertionError(
            "browser tests need Chromium on the PATH, and found none: "
            "install the Debian package 'chromium' (apt-get install chromium)"
        )
    return found


@contextmanager
def chromium(*extra: str) -> Iterator[Browser]:
    """A running browser; ``extra`` are further command-line arguments."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=[*ARGUMENTS, *extra])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, every address it asked for, and everything it complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def watched_page(browser: Browser, width: int = 1200, height: int = 900, dark: bool = False) -> Iterator[Watched]:
    """A fresh page without cookies or cache."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    watched = Watched(context.new_page())
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on(
        "console",
        lambda message: watched.complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    try:
        yield watched
    finally:
        context.close()
