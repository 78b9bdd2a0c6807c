"""What the parts of a run that begins are expected to take: from earlier runs, else from a probe of five seconds."""

from __future__ import annotations

from engine.errors import first_line
from engine.planning.estimate import NEVER_RUN, SERVED, estimate
from engine.planning.probe import SECONDS, probe
from engine.progress import duration
from engine.runs.plan import plan_run
from engine.runs.session import Session


def expected_seconds(session: Session) -> dict[str, float]:
    """Seconds by part, as `Progress.expect` takes them; what is not known is left out. Notes what is expected."""
    home, recipe, progress = session.home, session.recipe, session.progress
    plan = plan_run(home.captures, recipe, session.target, session.prompts)
    known = estimate(home, recipe, plan)
    if known.seconds_unknown == NEVER_RUN and recipe.trains:  # the trial learns too: a measurement is not worth that
        progress.note(f"{NEVER_RUN.partition(': ')[2]}: trying target and draft for {SECONDS:.0f} seconds")
        try:
            probe(home, recipe, session.target)
        except Exception as error:  # no estimate is worth a run; what is wrong with it, the run itself will say
            progress.note(f"they could not be tried: {first_line(error)}")
        known = estimate(home, recipe, plan)
    if known.seconds:
        parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in known.seconds.items())
        source = f"run {known.based_on}" if known.based_on else "five seconds of each kind of work"
        progress.note(f"expected: {parts}, scaled from {source}")
    seconds = dict(known.seconds)
    if SERVED in known.seconds_missing:
        seconds.pop("capture", None)  # of which the server's answers are a part
    elif SERVED in seconds:
        seconds["capture"] = seconds.get("capture", 0.0) + seconds.pop(SERVED)
    return seconds
