"""Screenshots of every page of the workbench: light, dark, narrow, and with an empty store.

    python docs/screenshots.py --out build/screenshots [--only compare run]

Starts a workbench of its own with the sample runs in a temporary home, and one without any run. Prints
what the browser's console complained about and exits with 1 if it did.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.browser import harness
from workbench.shared.pages import PAGES

LOOKS = {
    "light": {},
    "dark": {"dark": True},
    "narrow": {"width": 420, "height": 900},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("build/screenshots"))
    arguments.add_argument("--only", nargs="*", choices=list(PAGES), default=list(PAGES))
    arguments.add_argument("--looks", nargs="*", choices=[*LOOKS, "empty"], default=[*LOOKS, "empty"])
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    complaints: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for samples, looks in (
            (True, [x for x in LOOKS if x in given.looks]),
            (False, ["empty"] if "empty" in given.looks else []),
        ):
            if not looks:
                continue
            home = Path(scratch) / ("full" if samples else "empty")
            server = harness.start(home, home.with_suffix(".log"), samples=samples)
            try:
                for look in looks:
                    complaints += take(server.url, look, given.only, given.out)
            finally:
                server.stop()
    print("\n".join(complaints) or "no errors in the browser's console")
    sys.exit(bool(complaints))


def take(url: str, look: str, names: list[str], out: Path) -> list[str]:
    """One picture of each page; returns what the console said."""
    with harness.browser(**LOOKS.get(look, {})) as visitor:
        for name in names:
            page = visitor.page()
            page.goto(f"{url}/{'' if PAGES[name].default else name}")
            harness.settle(page)
            page.wait_for_timeout(4000 if name in ("live", "home") else 1500)
            harness.whole(page)
            page.screenshot(path=str(out / f"{name}-{look}.png"))
            page.close()
            print(out / f"{name}-{look}.png", flush=True)
        return [*visitor.errors, *(f"request to {where}" for where in visitor.elsewhere)]


if __name__ == "__main__":
    main()
