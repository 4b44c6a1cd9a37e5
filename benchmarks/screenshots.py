"""The pictures of a report page in docs: one of a wide window in light, one of a phone in dark.

    ectorch report results/mnist --out runs/mnist.html
    python benchmarks/screenshots.py runs/mnist.html --out docs/report

Needs the dev extra's playwright and Debian's chromium. Says what the page writes to its console.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WINDOWS = {"wide": (1200, 900, "light"), "phone": (390, 844, "dark")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    arguments = parser.parse_args()
    browser = shutil.which("chromium") or parser.error("chromium is not installed")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, (width, height, scheme) in WINDOWS.items():
            page = chromium.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.on("console", lambda message: print(f"console: {message.text}"))
            page.on("pageerror", lambda error: print(f"error: {error}"))
            page.goto(arguments.page.resolve().as_uri())
            page.screenshot(path=arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
