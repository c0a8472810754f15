"""`python -m tests.ui.pictures`: make the pictures of the web UI in `docs/pictures/` again.

They show a real server with a shop's data (`shop`), whose clock always begins at the same time
(`clock`), in Chromium, in both schemes. What was measured, such as times of the disk, differs from
run to run. It takes about two minutes.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.node.node_process import NodeProcess
from tests.ui.browser import SCHEMES, WIDE, launch, settle

from .clock import FAST_S, QuickClock
from .names import DIRECTORY, LIMIT_BYTES, file_of, places, wanted
from .png import smaller
from .shop import Shop

TASKS_COUNT: Final = 24
SHOWN_PORT: Final = 8001
"""The port that pictures show; the server has another, which is free."""
BULK_JOBS_APART_S: Final = 1.0
CALM_MS: Final = 1_500
"""How long a screen is left alone before it is taken: what it asks for later has come then."""


def main(names: list[str]) -> int:
    """Make the pictures of these names, or all; return the status to exit with."""
    unknown = set(names) - set(places())
    if unknown:
        print(f"There is no picture of {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    began_s = time.monotonic()
    clock = QuickClock(began_s)
    # A writable place that also a node's functions can enter, whose user is another one.
    with tempfile.TemporaryDirectory(prefix="troth-pictures-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        server = ServerProcess(
            directory / "server",
            *("--snapshot-directory", str(directory / "server" / "snapshots")),
            *("--snapshot-schedule", "0 3 * * *", "--retain", "resolved:30d,rejected:90d"),
            "--push-private-networks",
            environment={"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            command=(sys.executable, "-m", "tests.ui.pictures.clock", str(began_s), "serve"),
        )
        with server:
            shop = Shop(server, clock)
            token = shop.open()
            trade = threading.Thread(target=shop.trade)
            trade.start()
            try:
                function_id = shop.install_functions()
                time.sleep(max(0.0, began_s + FAST_S - time.monotonic()))
                node = NodeProcess(
                    directory / "node",
                    server,
                    *("--slots", "4", "--description", "packing-hall"),
                    token=token,
                )
                with node:
                    shop.run_functions(function_id, TASKS_COUNT)
                    shop.start_bulk_jobs(BULK_JOBS_APART_S)
                    taken = take(server, token, names or [*places()])
            finally:
                shop.close()
                trade.join()
    DIRECTORY.mkdir(exist_ok=True)
    for path, png in taken.items():
        path.write_bytes(smaller(png))
    return check()


def take(server: ServerProcess, token: str, names: list[str]) -> dict[Path, bytes]:
    """Sign in, take the pictures of these names in both schemes, and say where each belongs."""
    taken: dict[Path, bytes] = {}
    rule = f"MAP 127.0.0.1:{SHOWN_PORT} {server.url.removeprefix('http://')}"
    with sync_playwright() as playwright:
        browser = launch(playwright, f"--host-resolver-rules={rule}")
        page = browser.new_page(
            viewport={"width": WIDE[0], "height": WIDE[1]},
            reduced_motion="reduce",
            timezone_id="UTC",
        )
        page.goto(f"http://127.0.0.1:{SHOWN_PORT}/ui/")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("nav")
        for name in names:
            page.goto(f"http://127.0.0.1:{SHOWN_PORT}/ui/{places()[name]}")
            settle(page)
            page.wait_for_timeout(CALM_MS)
            show_usual_places(page, server)
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                taken[file_of(name, scheme)] = page.screenshot(caret="hide")
        browser.close()
    return taken


_REPLACE: Final = """(replaced) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    for (const [text, other] of replaced) {
      if (walker.currentNode.data.includes(text)) {
        walker.currentNode.data = walker.currentNode.data.replaceAll(text, other);
      }
    }
  }
}"""


def show_usual_places(page: Page, server: ServerProcess) -> None:
    """Write the usual ports and directories on a page, instead of those that were free."""
    ports = [urlsplit(url).port for url in (server.url, server.poll_url)]
    replaced = [(f":{port}", f":{SHOWN_PORT + index}") for index, port in enumerate(ports)]
    replaced.append((str(server.directory), "/var/lib/troth"))
    page.evaluate(_REPLACE, replaced)


def check() -> int:
    """Delete pictures of what is no more, and say how large the others are; return a status."""
    for path in set(DIRECTORY.glob("*.png")) - wanted():
        path.unlink()
    sizes = {path.name: path.stat().st_size for path in sorted(DIRECTORY.glob("*.png"))}
    total, largest = sum(sizes.values()), max(sizes.values())
    print(f"{len(sizes)} pictures, {total // 1000} KB, the largest {largest // 1000} KB")
    large = [name for name, size in sizes.items() if size >= LIMIT_BYTES]
    if large:
        print(f"Too large: {', '.join(large)}", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
