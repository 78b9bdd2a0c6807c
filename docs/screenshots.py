"""Take screenshots of every page of the workbench: light, dark, narrow, and with an empty home.

    python docs/screenshots.py --out build/screenshots [--only compare run]

Starts a workbench with the sample runs in a temporary home, and one without any run. Prints the errors in the
browser's console, and exits with status 1 if there are any.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    parser.add_argument("--only", nargs="*", choices=list(PAGES), default=list(PAGES))
    parser.add_argument("--looks", nargs="*", choices=[*LOOKS, "empty"], default=[*LOOKS, "empty"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for samples, looks in (
            (True, [x for x in LOOKS if x in args.looks]),
            (False, ["empty"] if "empty" in args.looks else []),
        ):
            if not looks:
                continue
            home = Path(scratch) / ("full" if samples else "empty")
            server = harness.start(home, home.with_suffix(".log"), samples=samples)
            try:
                for look in looks:
                    errors += take(server.url, look, args.only, args.out)
            finally:
                server.stop()
    print("\n".join(errors) or "no errors in the browser's console")
    sys.exit(bool(errors))


def take(url: str, look: str, names: list[str], out: Path) -> list[str]:
    """Take a picture of each page and return the console's errors."""
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
