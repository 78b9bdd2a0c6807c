"""A workbench of our own on a free port, and a real Chromium to look at it; for the tests and for the screenshots."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from engine.paths import PROJECT_ROOT

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Path of an installed Chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Server:
    """A running workbench."""

    url: str
    process: subprocess.Popen[bytes]
    home: Path
    log: Path

    def stop(self) -> None:
        """End the server and nothing else: runs that it started continue."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# urlopen's own opener keeps the proxies of its first use, which one test sets.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(home: Path, log: Path, *, samples: bool = True, port: int | None = None, root: Path = PROJECT_ROOT) -> Server:
    """Start the workbench of a checkout (`root`) as the README says, and wait until it answers."""
    port = port or free_port()
    environment = {**os.environ, "DRAFTBENCH_HOME": str(home), "DRAFTBENCH_SAMPLES": "1" if samples else "0"}
    environment |= {} if root == PROJECT_ROOT else {"PYTHONPATH": str(root)}
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "workbench/app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    with open(log, "ab") as file:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=file, stderr=file)
    server = Server(f"http://127.0.0.1:{port}", process, home, log)
    deadline = time.monotonic() + 240  # a first start lays the samples out, which a busy machine takes minutes for
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), _DIRECTLY.open(f"{server.url}/_stcore/health", timeout=2) as answer:
            if answer.status == 200:
                return server
        if process.poll() is not None:
            break
        time.sleep(0.3)
    server.stop()
    raise RuntimeError(f"the workbench did not start:\n{log.read_text(errors='replace')[-3000:]}")


def end_jobs(home: Path) -> None:
    """End what the workbench of this home left running: its queue and its runs, by their command and home."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = "engine" in process.cmdline() and process.environ().get("DRAFTBENCH_HOME") == str(home)
            if ours:
                process.kill()


@dataclass
class Browser:
    """A browser of one visitor; what went wrong in it is collected."""

    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def page(self) -> Page:
        """A new tab whose console errors and requests to other machines are noted."""
        page = self.context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"{page.url}: {error}"))
        page.on("request", self._request)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.location.get('url', '')}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith(
            ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "chrome", "file:", "about:")
        ):
            self.elsewhere.append(request.url)


@contextlib.contextmanager
def browser(
    *, dark: bool = False, width: int = 1440, height: int = 1000, flags: Sequence[str] = (), **options: Any
) -> Iterator[Browser]:
    """Headless Chromium with an empty profile. `flags` are its own, on top of `FLAGS`."""
    path = chromium()
    assert path is not None, "no chromium on this machine"
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=path,
            headless=True,
            args=[*FLAGS, *flags],
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
            **options,
        )
        try:
            yield Browser(context)
        finally:
            context.close()


def count_clicks(page: Page) -> None:
    """Count the presses of the mouse from now on, over all addresses of one server; keys are not counted."""
    page.add_init_script(
        "addEventListener('pointerdown', () => localStorage.setItem('clicks', 1 + +(localStorage.clicks || 0)), true)"
    )


def clicks(page: Page) -> int:
    """How many there were."""
    return int(page.evaluate("Number(localStorage.clicks || 0)"))


def settle(page: Page, *, seconds: float = 60) -> None:
    """Wait until the script of the page has run to its end and nothing is being drawn."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=seconds * 1000)
    page.wait_for_timeout(300)


def whole(page: Page, most: int = 6000) -> None:
    """Make the window as tall as the page's content, so that a screenshot shows all of it."""
    height = page.evaluate(
        "Math.max(...[...document.querySelectorAll('[data-testid=stMain],[data-testid=stAppScrollToBottomContainer]')]"
        ".map(e => e.scrollHeight), 400)"
    )
    size = page.viewport_size or {"width": 1440, "height": 1000}
    page.set_viewport_size({"width": size["width"], "height": min(most, max(size["height"], int(height) + 20))})
    page.wait_for_timeout(900)
