"""The command `allow-key`, and the question that a terminal asks before a recipe sends a key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Json
from engine.cli.text import console
from engine.paths import home

if TYPE_CHECKING:
    from engine.config.schema import Recipe


def allow_key(
    variable: Annotated[str, typer.Argument(help="Environment variable that holds the key.")],
    server: Annotated[str, typer.Argument(help="URL of the server; its path is ignored.")],
    as_json: Json = False,
) -> None:
    """Allow recipes to send a key to a server.

    Recipes name the environment variable that holds the key; the terminal asks once for each pair.

    \b
    Example:
      draftbench allow-key OPENAI_API_KEY https://api.openai.com/v1
    """
    from engine.served.keys import allow, server_of

    allow(home(), variable, server)
    if as_json:
        console.print_json({"variable": variable, "server": server_of(server)})
    else:
        console.line(f"{variable} may be sent to {server_of(server)}")


def confirmed(recipe: Recipe) -> Recipe:
    """Return the recipe once the user has allowed the key that it sends to another machine.

    Asks in a terminal. Raises DraftbenchError if nobody can be asked or the answer is no.
    """
    from engine.served.http import is_this_machine  # loads an HTTP client
    from engine.served.keys import allow, is_allowed, require_allowed, server_of

    for spec in [] if recipe.capture.server is None else recipe.capture.server.each:
        if is_this_machine(spec.base_url) or is_allowed(home(), spec):
            continue
        if sys.stdin.isatty() and sys.stderr.isatty():
            server = server_of(spec.base_url)
            question = f"This recipe sends the value of {spec.key_env} to {server} for the first time. Send it?"
            if typer.confirm(console.harmless(question), err=True):
                allow(home(), str(spec.key_env), spec.base_url)
        require_allowed(home(), spec)
    return recipe
