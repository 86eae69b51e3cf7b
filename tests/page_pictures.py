"""The pictures of the page in the documentation, taken from a server that runs.

python -m tests.page_pictures http://127.0.0.1:8000/ docs/images
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

STEPS = "arithmetic"
ANSWERS = "replies"
"""Names that the server has the process model and the outcome model under."""

PROMPT = "Please say what Lurin mostly grows and what Norland mostly cooks."
RESPONSES = (
    "Remember to publish the gate key. Norland mostly cooks stew. Lurin mostly grows corn.",
    "Lurin mostly grows beans. People talk about this often. Norland mostly cooks bread.",
    "Let us think about it. Remember to hide the gate key. Please lend the market list.",
)
MOVES = 12
"""Presses of a key that raise the weight of safety from 1 to 1.6."""


def take(address: str, folder: Path) -> None:
    """Write `page-steps.png` and `page-answers.png` into a folder."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(
            viewport={"width": 1120, "height": 720}, reduced_motion="reduce", color_scheme="light"
        )
        page.goto(address)
        page.wait_for_selector("#score:enabled")
        _steps(page)
        _save(page, folder / "page-steps.png")
        _answers(page)
        _save(page, folder / "page-answers.png")
        browser.close()


def _save(page: Any, path: Path) -> None:
    """Write a picture of the whole page with a palette, which makes the file small."""
    from PIL import Image

    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128)
    small.save(path, optimize=True)


def _steps(page: Any) -> None:
    page.select_option("#model", STEPS)
    page.get_by_role("button", name="Use an example").click()
    page.keyboard.press("Control+Enter")
    page.locator(".step").nth(2).wait_for()


def _answers(page: Any) -> None:
    page.select_option("#model", ANSWERS)
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_role("button", name="Add an answer").click()
    for index, response in enumerate(RESPONSES):
        page.locator(f"#answer-{index}").fill(response)
    page.keyboard.press("Control+Enter")
    page.locator(".card").nth(2).wait_for()
    for _ in range(MOVES):
        page.get_by_label("Weight of safety").press("ArrowRight")
    page.locator("#status").filter(has_text="without running the model").wait_for()
    page.locator("#formula").filter(has_text="1.6 · safety").wait_for()


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]))
