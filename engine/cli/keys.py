"""`draftbench allow-key`, and the question that a recipe with a key leads to in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from engine.cli.options import Json
from engine.cli.text import console
from engine.config.schema import Recipe
from engine.paths import home
from engine.served.keys import allow, is_allowed, require_allowed, server_of


def allow_key(
    variable: Annotated[str, typer.Argument(help="Environment variable that holds the key.")],
    server: Annotated[str, typer.Argument(help="The server's address; its path does not matter.")],
    as_json: Json = False,
) -> None:
    """Let recipes send this environment variable to this server; asked for once a pair.

    \b
    Example:
      draftbench allow-key OPENAI_API_KEY https://api.openai.com/v1
    """
    allow(home(), variable, server)
    told = {"variable": variable, "server": server_of(server)}
    if as_json:
        console.print_json(told)
    else:
        console.line(f"{variable} may be sent to {told['server']}")


def confirmed(recipe: Recipe) -> Recipe:
    """The recipe, once the key that it sends to another machine is confirmed: by a question where somebody can answer.

    Raises DraftbenchError where nobody can, or the answer is no.
    """
    from engine.served.http import is_this_machine  # here, because it loads an HTTP client

    spec = recipe.capture.server
    if spec is None or is_this_machine(spec.base_url) or is_allowed(home(), spec):
        return recipe
    if sys.stdin.isatty() and sys.stderr.isatty():
        server = server_of(spec.base_url)
        question = f"This recipe sends the value of {spec.key_env} to {server}, for the first time. Send it?"
        if typer.confirm(console.harmless(question), err=True):
            allow(home(), str(spec.key_env), spec.base_url)
    require_allowed(home(), spec)
    return recipe
