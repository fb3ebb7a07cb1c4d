"""A browser for the tests of pages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The browser reads commands from file 3 and answers on file 4, JSON with a zero byte after each.
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
# Texts that stick out at the sides, and the width that the page needs.
PROBE = """(() => {
  const cut = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || node.parentElement.closest(".hidden, .skip, pre, noscript")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width && (box.left < 0 || box.right > document.documentElement.clientWidth)) cut.push(node.data.trim());
    }
  }
  return {cut, width: document.documentElement.scrollWidth, visible: document.documentElement.clientWidth};
})()"""
# Form controls and links without a name that a screen reader could say, and images without an alt attribute.
NAMELESS = """[...document.querySelectorAll("button, a, input, img, section")].filter((one) =>
  one.offsetParent !== null && !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") ||
  one.textContent.trim() || one.hasAttribute("alt"))).map((one) => one.outerHTML)"""


class Browser:
    """A page of a headless Chromium, driven by the DevTools protocol."""

    def __init__(self, *command: str) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(commands), str(answers), *command,
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.requested: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(message["params"]["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        return message

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of what it promises."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        assert self.evaluate(
            f"""new Promise((resolve) => {{
              const until = performance.now() + {1000 * seconds};
              const look = () => ({condition}) ? resolve(true)
                : performance.now() > until ? resolve(false) : setTimeout(look, 20);
              look();
            }})"""
        ), (
            f"{condition} did not come true; the page says {self.evaluate('document.body.innerText')}"
        )

    def open(self, address: str, *, width: int = 1280, dark: bool = False) -> None:
        self.requested.clear()
        self.complaints.clear()
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {address!r} && document.readyState === 'complete'")
        self.wait("!document.querySelector('#about') || !document.querySelector('#about').hidden")

    def choose(self, *paths: Path) -> None:
        """Give files to the page's file input, as its dialog would, and wait for the answers."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])
        self.wait(f"document.querySelectorAll('.answer').length >= {len(paths)}")
        self.wait("!document.querySelector('[aria-busy]')")

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def screenshot(self, path: Path) -> None:
        """Write an image of the whole page."""
        shown = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shown["data"]))

    def layout(self) -> dict[str, Any]:
        """Return the texts that stick out at the sides, and the widths that the page needs and has."""
        return self.evaluate(PROBE)

    def nameless(self) -> list[str]:
        """Return the controls, links and images without a name."""
        return self.evaluate(NAMELESS)


@pytest.fixture(scope="session")
def chromium() -> tuple[str, ...]:
    """The command that starts a headless Chromium which asks nobody for anything."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs chromium (Debian's package)")
    return (
        found,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    )


@pytest.fixture(scope="module")
def browser(
    chromium: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    opened = Browser(*chromium, f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    yield opened
    opened.close()
