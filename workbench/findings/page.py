"""The claims of the paper that Draftbench follows, tested on the runs that this home has."""

import pandas as pd
import streamlit as st

from engine.catalogue import servers_by_rate
from engine.findings.claim import ordinal
from engine.findings.efforts import MEANING
from engine.findings.evaluate import Finding, Outcome
from engine.findings.home import HomeFindings, evaluate_home
from engine.findings.missing import Wanted, undecided
from engine.findings.verdicts import ENOUGH_SEEDS
from engine.findings.words import PAPER, PAPER_URL, sentence
from engine.records.study_tag import studies_of
from workbench.findings import acceptance, figures, report
from workbench.findings import view as findings_view
from workbench.launch import from_findings
from workbench.shared import learning_curve, queries, theme, ui, url_warnings
from workbench.shared.pages import page_of

EVERY = "every run"
USUAL_SIZE = "as most methods"
MOST_SHOWN = 12  # comparisons in a figure that stands open; of more, the figure by domain stands there


@st.cache_resource(max_entries=4, show_spinner="Comparing runs")  # shared as it is: nothing in it changes
def evaluate(root: str, state: str, study: str | None) -> tuple[HomeFindings, pd.DataFrame, int]:
    """All findings, what the figures show, and how many runs are not in those; until a run changes (`state`)."""
    evaluated = evaluate_home(queries.home(), study, up_to_date=True)
    rates = acceptance.kept_rates(evaluated)
    return evaluated, acceptance.of_domains(rates.frame), rates.elsewhere


def choose_study(known: pd.DataFrame) -> str | None:
    """Whose runs are looked at: all of this home, or those of one study."""
    studies = studies_of(known)
    if not studies:
        url_warnings.not_here("study", EVERY)
        return None
    study = st.selectbox(
        "Runs", [EVERY, *studies], key="study", bind="query-params", help="A study's runs are tagged `study:NAME`."
    )
    return None if study == EVERY else study


def show_origin(evaluated: HomeFindings) -> None:
    """What the verdicts rest on, and how they are reached."""
    gone = ", ".join(f"{count} {reason}" for reason, count in evaluated.left_out.items() if count)
    count, samples = evaluated.n_runs, evaluated.n_samples
    took = f"{count} run{'s' if count != 1 else ''} took part"
    took += f", {samples} of them samples that were measured elsewhere" if samples else ""
    took += f"; left out: {gone}." if gone else "."
    st.caption(f"{took} The paper: [{ui.text(PAPER)}]({PAPER_URL}).")


def show_how(evaluated: HomeFindings, rates: pd.DataFrame, study: str | None) -> None:
    """How a verdict is reached, and the whole page as a file."""
    with st.expander("How this is judged"):
        st.markdown(
            "Acceptance is *exact* acceptance on the target's own text; for claim 6b it is *argmax* acceptance. Runs "
            "are compared only where the setting in question is their only difference, on the same held-out prompts, "
            "paired by prompt. A claim's verdict is that of its weakest comparison. Nothing is called reproduced "
            f"before {ENOUGH_SEEDS} seeds agree. A comparison is made at one temperature; effects over several are "
            "averages, with each temperature's own beside them. The paper does not state whether it means relative or "
            "absolute percent: both are shown, and figures are relative."
        )
        reported = "; ".join(f"*{rate}*: {', '.join(names)}" for rate, names in servers_by_rate().items())
        st.markdown(f"What servers report comes from {reported}.")
    if evaluated.n_runs:
        show_report(evaluated, rates, study)


def show_report(evaluated: HomeFindings, rates: pd.DataFrame, study: str | None) -> None:
    """The page as one file."""

    def make() -> str:
        return report.whole(evaluated, rates, queries.curve, study)

    st.download_button(
        "Download the report",
        make,
        "findings.html",
        "text/html",
        key="save-report",
        icon=":material/download:",
        on_click="ignore",
    )


def show(finding: Finding, evaluated: HomeFindings) -> None:
    """One claim: its verdict and one sentence; what it rests on is worked out when somebody asks for it."""
    claim = finding.claim
    with st.container(key=f"claim_{claim.key}", gap="xsmall"):
        st.markdown(
            f"{findings_view.badge(finding.verdict)} **{ordinal(claim.number)} {ui.text(claim.title)}**  \n"
            f"{ui.text(sentence(finding))}"
        )
        details = st.expander("Details", key=f"open_{claim.key}", bind="query-params", type="compact")
        if details.open:
            with details:
                show_details(finding, evaluated)


def show_details(finding: Finding, evaluated: HomeFindings) -> None:
    """What the paper says, what was measured in each place, what is missing."""
    st.markdown(ui.text(finding.claim.introduced))
    st.markdown(f"{findings_view.badge(finding.verdict)} {ui.text(finding.reason[:1].upper() + finding.reason[1:])}.")
    if finding.claim.by_effort:
        show_efforts(finding)
    if finding.cells:
        show_pooled(finding)
        if finding.fairness:
            st.caption(ui.text(finding.fairness))
        if len(finding.cells) > MOST_SHOWN:
            show_taken_together(finding)
        for outcome in finding.outcomes:
            if outcome.cells:
                show_cells(finding, outcome, evaluated)
    show_missing(finding, evaluated.wanted[finding.claim.key])


def show_efforts(finding: Finding) -> None:
    """The kinds of effort beside each other: offline's win is partly that it sees every query more than once."""
    for outcome in finding.outcomes:
        line = f"**{outcome.effort}**: {ui.text(MEANING[outcome.effort])}"
        effect = "" if outcome.pooled is None else f" :gray[{ui.text(findings_view.brief(outcome.pooled))}]"
        st.markdown(f"- {findings_view.badge(outcome.verdict)} {line}{effect}")
    st.caption("The verdict above is the one at each mode's own schedule, which is how the modes are used.")


def show_pooled(finding: Finding) -> None:
    """The effect over all comparisons and by domain."""
    claim = finding.claim
    rates = {name: st.column_config.NumberColumn(format="%.3f") for name in (claim.base, claim.other)}
    st.dataframe(
        findings_view.pooled_table(claim, finding.outcomes),
        hide_index=True,
        column_config=rates,
        key=f"pooled_{claim.key}",
        height="content",
    )


def show_taken_together(finding: Finding) -> None:
    """The pooled effects as a figure; those of each comparison are one click away."""
    claim = finding.claim
    figure = findings_view.pooled_effects(claim, finding.outcomes, theme.mode())
    alt = f"{claim.title}: effect over all comparisons and by domain, with intervals"
    ui.chart(figure, key=f"together_{claim.key}", alt=alt, name=f"finding-{claim.key}-pooled", wide=True)


def show_cells(finding: Finding, outcome: Outcome, evaluated: HomeFindings) -> None:
    """Every comparison as a figure, and as a table with its runs."""
    claim, cells = finding.claim, outcome.cells
    key = f"{claim.key}_{outcome.effort}".replace(" ", "_").strip("_")
    short = len(finding.cells) <= MOST_SHOWN
    if short:
        show_effects(finding, outcome, key)
    label = f"{len(cells)} comparison{'s' if len(cells) > 1 else ''} and their runs" + (
        f", {outcome.effort}" if outcome.effort else ""
    )
    box = st.expander(label, key=f"open_{key}_runs", bind="query-params")
    if not box.open:  # tables of a hundred comparisons are sent when they are asked for
        return
    with box:
        if not short:
            show_effects(finding, outcome, key)
        rates = {name: st.column_config.NumberColumn(format="%.3f") for name in (claim.base, claim.other)}
        compare = st.column_config.LinkColumn("runs", display_text="side by side")
        st.dataframe(
            findings_view.table(claim, cells),
            hide_index=True,
            column_config={**rates, "runs": compare},
            key=f"cells_{key}",
        )
        opened = st.column_config.LinkColumn("run", display_text=r"run=([^&]+)", width="large")
        runs = findings_view.runs_table(findings_view.runs_of(cells), {run.id: run for run in evaluated.runs})
        st.dataframe(runs, hide_index=True, column_config={"run": opened}, key=f"runs_{key}")
        for remark in findings_view.remarks(cells):
            st.caption(f"{ui.text(remark)} Part of the effect may be that.")


def show_effects(finding: Finding, outcome: Outcome, key: str) -> None:
    if any(cell.counts for cell in outcome.cells):
        alt = f"{finding.claim.title}: measured effect of each comparison with its interval"
        figure = findings_view.effects(finding.claim, outcome.cells, theme.mode(), outcome.effort)
        ui.chart(figure, key=f"effects_{key}", alt=alt, name=f"finding-{key}", wide=True)


def show_missing(finding: Finding, wanted: Wanted) -> None:
    """The runs that would decide the claim, as a study and, where they are few, one by one."""
    for base, other, odd in wanted.near:
        st.caption(
            f"Nearly comparable: {ui.text(other)} and {ui.text(base)} also differ in "
            f"{ui.text(findings_view.differences(odd))}."
        )
    study = wanted.study if undecided(finding) else None
    if study is None:
        return
    label = f"The study that would decide it: about {study.n_runs} run{'s' if study.n_runs > 1 else ''}"
    with st.expander(label):
        st.markdown(f"{ui.sentence(study.why)}. Save it and start it with `draftbench study {study.file_name}`.")
        if from_findings.BLANK not in study.text:
            chosen = st.session_state.get("study")
            wanted_study = from_findings.name_of(finding.claim.key, None if chosen == EVERY else chosen)
            ui.goto(
                "launch",
                "Open this study in Launch",
                icon=":material/rocket_launch:",
                begin="Study",
                study=wanted_study,
            )
        st.code(study.text, language="yaml", height=240 if study.text.count("\n") > 12 else "content")
        st.download_button(
            f"Download {study.file_name}",
            study.text,
            study.file_name,
            "application/yaml",
            key=f"study_{finding.claim.key}",
            icon=":material/download:",
            on_click="ignore",
        )
        for line in study.commands:
            st.code(line, language="bash", wrap_lines=True)
        for number, one in enumerate(wanted.runs if study.commands else []):
            st.page_link(
                page_of("launch"),
                label=f"Open Launch for {ui.text(one.what)} ({number + 1})",
                icon=":material/rocket_launch:",
                query_params={"from": one.run, "set": list(one.changes)},
            )


def show_figures(frame: pd.DataFrame, others: int) -> None:
    """Acceptance by method and domain, against data size, and how it was learnt."""
    if frame.empty:
        return
    offered = acceptance.choices(frame)
    st.subheader("Figures", anchor="figures")
    first, second, third = st.columns(3)
    temperature = float(
        first.selectbox("Temperature", [f"{t:g}" for t in offered["temperature"]], key="t", bind="query-params")
    )
    scenario = second.selectbox("Scenario", offered["scenario"], key="scenario", bind="query-params")
    sizes = [USUAL_SIZE, *(str(size) for size in offered["n_train"])]
    size = third.selectbox("Training queries", sizes, key="queries", bind="query-params")
    show_by_method(frame, temperature, size)
    show_by_size(frame, scenario, temperature)
    show_curves(frame, scenario, size, temperature)
    if others:
        st.caption(
            f"{others} runs are not in these figures: their target, held-out prompts or kind of draft differs from "
            "most runs of their domain."
        )


def of_size(frame: pd.DataFrame, size: str) -> pd.DataFrame:
    return acceptance.usual_size(frame) if size == USUAL_SIZE else frame[frame.n_train == int(size)]


def show_by_method(frame: pd.DataFrame, temperature: float, size: str) -> None:
    rows = of_size(frame, size)
    rows = rows[(rows.temperature - temperature).abs() < 1e-6]
    if rows.empty:
        return
    alt = (
        "Exact acceptance of each method by domain and scenario, with intervals; "
        "a dashed line for the draft before training"
    )
    ui.chart(
        figures.by_method(rows, temperature, theme.mode()),
        key="by_method",
        alt=alt,
        name="acceptance-by-method",
        wide=True,
    )
    st.caption("Each mark is a scenario; the dashed line is the draft before training. A method is a loss and a mode.")


def show_by_size(frame: pd.DataFrame, scenario: str, temperature: float) -> None:
    rows = frame[frame.scenario == scenario]
    if rows.groupby(["domain", "method"]).n_train.nunique().max() < 2:
        st.caption(
            "No method has runs of two sizes in this scenario yet, so acceptance is not drawn against data size."
        )
        return
    alt = "Exact acceptance against the number of training queries on a log axis, a line a method, a panel a domain"
    ui.chart(
        figures.by_size(frame, scenario, temperature, theme.mode()),
        key="by_size",
        alt=alt,
        name="acceptance-by-size",
        wide=True,
    )


def show_curves(frame: pd.DataFrame, scenario: str, size: str, temperature: float) -> None:
    rows = of_size(frame[frame.scenario == scenario], size)
    if rows.empty:
        return
    st.subheader("Learning curves", anchor="curves")
    domain = st.selectbox("Domain", sorted(rows.domain.unique()), key="domain", bind="query-params")
    axis = ui.choose_axis()
    labels = figures.curve_labels(rows, domain, scenario)
    figure = figures.curves(
        queries.curve(list(labels)),
        labels,
        axis,
        temperature,
        theme.mode(),
        f"{domain}, {scenario}, {rows[rows.domain == domain].n_train.max():,.0f} queries",
    )
    alt = f"Exact acceptance on watched prompts while training, by {learning_curve.AXES[axis]}, a line a method"
    ui.chart(figure, key="curves", alt=alt, name="learning-curves")
    st.caption("One seed of each method. The watched prompts are few and are not those that are measured in the end.")


def render() -> None:
    """Draw the page."""
    ui.heading("findings")
    overview = queries.runs()
    if overview.exact.isna().all():
        ui.empty(
            "No run is measured yet. The claims below are tested as soon as there are runs to compare.",
            "Start a run",
            "launch",
        )
    study = choose_study(overview)
    evaluated, rates, elsewhere = evaluate(str(queries.home().root), queries.state(), study)
    show_origin(evaluated)
    for finding in evaluated.findings:
        show(finding, evaluated)
    show_how(evaluated, rates, study)
    show_figures(rates, elsewhere)
