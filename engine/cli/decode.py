"""The commands that show a draft at work: `decode` in the terminal, `live` in the browser."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from engine.catalogue import Proposals
from engine.cli.options import DType, Json
from engine.cli.text import console
from engine.config.defaults import DECODE, DEFAULT_TARGET
from engine.config.section import temperature_fault
from engine.errors import DraftbenchError
from engine.paths import home


def decode(
    prompt: Annotated[str, typer.Option("--prompt", help="Question to answer.")],
    run_id: Annotated[str | None, typer.Option("--run", help="Use the target and the best draft of this run.")] = None,
    target: Annotated[
        str | None, typer.Option(help=f"Target if there is no --run.  [default: {DEFAULT_TARGET}]")
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="Run, draft folder or model to propose tokens; plain decoding if not given.")
    ] = None,
    num_draft_tokens: Annotated[
        int, typer.Option("--num-draft-tokens", "--gamma", min=1, max=32, help="Number of tokens proposed per round.")
    ] = DECODE.num_draft_tokens,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = DECODE.temperature,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Nucleus sampling; 1 turns it off.")] = DECODE.top_p,
    top_k: Annotated[
        int, typer.Option(min=0, help="Sample from the k likeliest tokens; 0 turns it off.")
    ] = DECODE.top_k,
    proposals: Annotated[
        Proposals,
        typer.Option(help="How the draft proposes: drawn from its distribution, or always its likeliest token."),
    ] = DECODE.proposals,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of the answer in tokens.")
    ] = DECODE.max_new_tokens,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for sampling.")] = DECODE.seed,
    dtype: Annotated[
        DType, typer.Option(help="auto takes bfloat16 where the hardware supports it, otherwise float32.")
    ] = "auto",
    refused: Annotated[
        bool | None,
        typer.Option(
            "--refused/--no-refused",
            help="Also show refused tokens: struck through, and in [-marks-] where there are no styles.  "
            "[default: only in a terminal]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode one prompt and show the fate of every token.

    \b
    Example:
      draftbench decode --prompt 'Why is blood red?'
      draftbench decode --run latest --prompt 'Why is blood red?'
    """
    if fault := temperature_fault(temperature):
        raise DraftbenchError(f"--temperature {temperature:g}", fault, "give 0, or another temperature such as 0.7")
    from engine.decode.one_prompt import decode_prompt, question
    from engine.decode.sampling import Sampling
    from engine.decode.settings import DecodeSettings, FixedLength
    from engine.progress import Progress
    from engine.runs.pair import load_pair

    asked = question(prompt)  # an empty one is refused before the models are loaded
    pair = load_pair(home(), run_id=run_id, target=target, draft=draft, dtype=dtype, progress=Progress())
    sampling, length = Sampling(temperature, top_k, top_p), FixedLength(num_draft_tokens)
    settings = DecodeSettings(sampling, length, max_new_tokens, pair.target.stop_ids, seed, proposals)
    answer = decode_prompt(pair.target, pair.draft, asked, settings, draft_name=pair.draft_name)
    if as_json:
        console.print_json(answer.as_dict())
        return
    styled = console.out.color_system is not None  # neither a pipe nor a simple terminal (TERM=dumb) has styles
    shown = styled if refused is None else refused
    for piece in console.coloured(answer.rounds(), pair.target.tokenizer, refused=shown, styled=styled):
        console.out.print(piece, end="")
        console.flush()
    console.line("\n")
    if pair.draft is not None and styled:
        console.out.print(console.legend())
    console.paragraph(answer.figures())


def live(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own opens the view to others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve the live view alone in the browser.

    It decodes with one or two drafts and shows every token with its fate.

    \b
    Example:
      draftbench live --port 7860
    """
    if importlib.util.find_spec("workbench") is None:
        raise DraftbenchError(
            "the workbench is not installed", "the live view is part of it", "`pip install 'draftbench[workbench]'`"
        )
    console.flush()
    # The engine imports nothing of the browser, so the view replaces this process; Ctrl-C then reaches it alone.
    os.execv(sys.executable, [sys.executable, "-m", "workbench.live", "--host", host, "--port", str(port)])
