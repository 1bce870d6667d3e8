"""A headless Chromium by the WebDriver protocol (W3C WebDriver; Debian's `chromium` and `chromium-driver`)."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from clients.process import bound
from tests.support.stack import eventually

ENTER, ESCAPE, TAB, DOWN, PAGE_DOWN = "\ue007", "\ue00c", "\ue004", "\ue015", "\ue00f"
"""Keys by the numbers that WebDriver gives them."""
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)


class Browser:
    """One window. Failures of the driver are failures of the test."""

    def __init__(self, driver: httpx.Client, options: dict[str, Any]) -> None:
        self._driver = driver
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._at = f"/session/{session['sessionId']}"
        self._log: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ask("DELETE", self._at)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._driver.request(method, path, json=body)
        value = answer.json()["value"]
        if answer.is_error:
            pytest.fail(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        self._ask("POST", f"{self._at}/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """The value of a JavaScript function body."""
        return self._ask("POST", f"{self._at}/execute/sync", {"script": script, "args": list(args)})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def keys(self, text: str) -> None:
        """Type, wherever the focus is."""
        steps = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]}
        self._ask("POST", f"{self._at}/actions", body)

    def command(self, name: str, **params: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._ask("POST", f"{self._at}/goog/cdp/execute", {"cmd": name, "params": params})

    def errors(self) -> list[str]:
        """What the console called an error so far; reading pixels back makes it warn of our own look."""
        entries = self._ask("POST", f"{self._at}/se/log", {"type": "browser"})
        self._log += [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]
        return self._log


@contextmanager
def chromium(folder: Path, width: int = 1440, height: int = 900) -> Iterator[Browser]:
    """A fresh Chromium for as long as the context lasts; the test fails where there is none."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        pytest.fail("Chromium is not here: `apt-get install chromium chromium-driver` as root on Debian")
    options = {
        "binary": program,
        "args": [*_FLAGS.split(), f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}"],
    }
    log = folder / "chromedriver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(bound([driver, "--port=0"]), stdout=output, stderr=subprocess.STDOUT)
    try:
        ready = re.compile(r"started successfully on port (\d+)")
        found = eventually(lambda: ready.search(log.read_text(errors="replace")), 20, "chromedriver's port")
        assert found is not None
        port = found[1]
        base = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False)
        with base as client, Browser(client, options) as browser:
            yield browser
    finally:
        process.terminate()
        process.wait(10)
