"""The claims of the paper that Draftbench follows, tested on the runs that this home has."""

import pandas as pd
import streamlit as st

from engine.measure.findings import Finding, evaluate
from engine.measure.pairing import Run, select
from engine.measure.verdicts import ENOUGH_SEEDS, FEW
from engine.measure.wanted import modes, near_misses, wanted
from workbench import charts, queries, theme, ui
from workbench.findings import findings_view
from workbench.view_state import page_of

MOST_CURVES = 6


@st.cache_resource(max_entries=4, show_spinner="Comparing runs")  # shared as it is: nothing in it changes
def found(root: str, changed: str) -> tuple[list[Finding], list[Run], dict[str, int]]:
    """All findings; kept until a run is added, finished or relabelled (`root` and `changed` say so)."""
    runs, left_out = select(queries.studied())
    return evaluate(runs, queries.prompt_sums), runs, left_out


def stamp(known: pd.DataFrame) -> str:
    return str(pd.util.hash_pandas_object(known[["run_id", "state", "archived", "certificate", "updated_at"]]).sum())


def numbered(finding: Finding) -> str:
    """'3.' of the paper's five, or 'Also:'."""
    return f"{finding.claim.number}." if finding.claim.number.isdigit() else "Also:"


def show_summary(findings: list[Finding], runs: list[Run], left_out: dict[str, int]) -> None:
    """All verdicts at a glance, and what they rest on."""
    for finding in findings:
        st.markdown(
            f"{findings_view.badge(finding.verdict)} {numbered(finding)} [{finding.claim.title}](#{finding.claim.key})"
        )
    gone = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    took = f"{len(runs)} run{'s' if len(runs) != 1 else ''} took part" + (f"; left out: {gone}." if gone else ".")
    st.caption(
        f"{took} Acceptance is *exact* acceptance on the target's own text. Runs are compared only if all their settings are "
        "equal but the one in question, on the same held-out prompts, paired by prompt. Nothing is called reproduced "
        f"before {ENOUGH_SEEDS} seeds agree."
    )


def show(finding: Finding, runs: list[Run]) -> None:
    """One claim: what the paper says, what was measured, what is missing."""
    claim = finding.claim
    with st.container(border=True):
        st.subheader(f"{numbered(finding)} {claim.title}", anchor=claim.key)
        st.markdown(
            f"{findings_view.badge(finding.verdict)} {ui.text(finding.reason[:1].upper() + finding.reason[1:])}."
        )
        st.markdown(f"The paper: {ui.text(claim.statement)}")
        if finding.cells:
            show_cells(finding)
        show_missing(finding, runs)


def show_cells(finding: Finding) -> None:
    rates = {name: st.column_config.NumberColumn(format="%.3f") for name in (finding.claim.base, finding.claim.other)}
    compare = st.column_config.LinkColumn("runs", display_text="compare")
    st.dataframe(findings_view.table(finding), hide_index=True, column_config={**rates, "runs": compare})
    ui.chart(
        findings_view.effects(finding, theme.mode()),
        key=f"effects_{finding.claim.key}",
        alt=f"{finding.claim.title}: measured effect of each comparison with its interval",
        name=f"finding-{finding.claim.key}",
    )
    for remark in findings_view.remarks(finding.cells):
        st.caption(f"{ui.text(remark)} Part of the effect may be that.")
    if finding.claim.band:
        st.caption(
            "Whether the paper means relative or absolute percent is not stated: both are shown, the figure is relative."
        )


def show_missing(finding: Finding, runs: list[Run]) -> None:
    """The runs that would decide the claim."""
    enough = finding.verdict != FEW and all(len(cell.by_seed) >= ENOUGH_SEEDS for cell in finding.cells)
    if enough:
        return
    if finding.claim.key in ("offline", "lead") and "online" not in modes():
        st.caption("It needs an online run of the same target, domain and prompts. This version trains offline only.")
        return
    near = [] if finding.cells else near_misses(finding.claim, runs)
    for base, other, odd in near:
        st.caption(
            f"Nearly comparable: {ui.text(other)} and {ui.text(base)} also differ in {ui.text(findings_view.differences(odd))}."
        )
    missing = wanted(finding, runs)
    if not missing:
        return
    with st.expander(f"{len(missing)} run{'s' if len(missing) > 1 else ''} that would help to decide it"):
        for number, one in enumerate(missing):
            st.markdown(f"**{ui.text(one.what)}**, everything else as in {ui.text(one.run)}")
            st.code(findings_view.command(one, queries.home().runs), language="bash", wrap_lines=True)
            st.page_link(
                page_of("launch"), label=f"Open Launch with this run's settings ({number + 1})", icon=":material/rocket_launch:",
                query_params={"from": one.run, "set": list(one.changes)},
            )  # fmt: skip


def show_figures(known: pd.DataFrame) -> None:
    """Acceptance by loss and domain, and how it was learnt."""
    fit = known[~known.exact.isna() & ~known.archived & known.certificate.eq(True)]
    if fit.empty:
        return
    st.subheader("Acceptance by loss and domain", anchor="losses")
    alt = "Exact acceptance of each run by loss, with its interval, a symbol for each domain"
    ui.chart(findings_view.by_loss(fit, theme.mode()), key="by_loss", alt=alt, name="acceptance-by-loss")
    st.caption(
        f"{len(fit)} runs, each at its lowest temperature. Runs differ in more than their loss: the claims above compare like with like."
    )
    st.subheader("Learning curves", anchor="curves")
    default = list(fit.drop_duplicates(["domain", "loss"]).run_id[:MOST_CURVES])
    chosen = ui.pick_runs("Runs", "runs", most=MOST_CURVES, default=default)
    if chosen:
        labels = dict(zip(known.run_id, known.label, strict=True))
        figure = charts.learning_curve(
            queries.curve(chosen), "tokens", "eval", {run: labels.get(run, run) for run in chosen}, theme.mode()
        )
        ui.chart(
            figure,
            key="curves",
            alt="Exact acceptance on watched prompts by target tokens trained on",
            name="learning-curves",
        )


ui.heading("findings")
overview = queries.runs()
if overview.exact.isna().all():
    ui.empty(
        "No run is measured yet. The claims below are tested as soon as there are runs to compare.",
        "Start a run",
        "launch",
    )
results = found(str(queries.home().root), stamp(overview))
show_summary(*results)
for one_finding in results[0]:
    show(one_finding, results[1])
show_figures(overview)
