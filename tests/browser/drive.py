"""A headless browser for the tests, and what they ask it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

REMEDY = "Debian: apt-get install chromium chromium-driver"
TIMEOUT = 60.0  # seconds: a loaded machine is slow, and waiting ends as soon as there is an answer


def missing() -> str:
    """Return why there is no browser to test with, or nothing."""
    try:
        import selenium  # noqa: F401, PLC0415
    except ImportError:
        return "selenium is not installed (pip install selenium)"
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not found; {REMEDY}" if lacking else ""


def start(profile: Path) -> Any:
    """Start Debian's Chromium with a profile of its own; skip, or fail if required, without one."""
    reason = missing()
    if reason and os.environ.get("RLHF_THEORY_BROWSER") == "required":
        pytest.fail(f"RLHF_THEORY_BROWSER=required, but {reason}")
    if reason:
        pytest.skip(f"No browser: {reason}")
    from selenium import webdriver  # noqa: PLC0415
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    # Both named, so that selenium never looks for them elsewhere, let alone downloads them.
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    driver.set_page_load_timeout(TIMEOUT)
    driver.set_script_timeout(TIMEOUT)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    return driver


def wait(driver: Any, condition: Any) -> Any:
    """Return what ``condition(driver)`` returns, as soon as it is true."""
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

    return WebDriverWait(driver, TIMEOUT, poll_frequency=0.05).until(condition)


def look(
    driver: Any, page: Path | str, *, width: int = 1280, dark: bool = False, media: str = ""
) -> None:
    """Open a page anew in a window of a width, in light or dark, on a screen or on paper."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    # From another page: a new fragment alone would not load it again.
    driver.get("about:blank")
    driver.get(page if isinstance(page, str) else page.as_uri())


CONTRAST = r"""
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const channel = (v) => linear(v / 255);
const numbers = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const c = numbers(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] > 0.5) return c;
  }
  return [255, 255, 255];
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || node.closest("script, style")) continue;
  if (!node.checkVisibility()) continue;
  const style = getComputedStyle(node);
  const color = numbers(node.namespaceURI.endsWith("svg") ? style.fill : style.color);
  const [low, high] = [light(color), light(ground(node))].sort((a, b) => a - b);
  found.push([(high + 0.05) / (low + 0.05), walk.currentNode.data.trim().slice(0, 40)]);
}
return found;
"""
"""Contrast of every visible text with what is behind it, as WCAG 2 defines it, and the text."""
