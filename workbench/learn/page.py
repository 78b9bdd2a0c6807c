"""The words, the rules and the traps of speculative decoding, as Draftbench uses them. `?topic=` opens one part."""

import html

import streamlit as st

from engine.catalogue import LORA, LOSSES, MODES, SELECTION, SERVERS, SERVERS_NOTE, SUPERVISION, Card
from engine.decode.events import MARKS
from engine.measure import definitions
from engine.measure.cost_model import best_gamma, break_even_alpha, expected_speedup, expected_tokens
from workbench.learn import prose, text
from workbench.shared import theme, tokens, ui, url_warnings


def show_words() -> None:
    for word in text.passages(prose.WORDS):
        st.markdown(f"**{word.title}**  \n{word.text}")


def show_round() -> None:
    st.markdown(
        "The draft writes gamma tokens, one after the other, each drawn from its q. The target reads all of them in "
        "**one** pass, which gives its p at every place. Then the tokens are judged from left to right: a token is "
        "kept "
        "with probability **min(1, p/q)**. At the first refusal the rest is thrown away, and the target draws a token "
        "from what p has more of than q. If all are kept, it adds one more. In this way every token that comes out is "
        "distributed exactly as if the target had written alone."
    )
    st.subheader("A round worked out", anchor="example")
    st.caption(
        f"A vocabulary of four words ({', '.join(text.EXAMPLE_WORDS)}), gamma 3. The numbers are computed as you read."
    )
    for step in text.worked_round():
        marked = f'<span class="tok fate-{step.fate}">{html.escape(step.word)}</span> <b>{step.fate}</b>'
        st.html(f'<div class="tokens {theme.mode()}">{marked}. {html.escape(step.explanation)}</div>')
    st.subheader("The marks", anchor="marks")
    st.html(tokens.legend_html(tone=theme.mode()))
    st.caption(
        f"The same {len(MARKS)} marks are used in the live view, the replay, reports and the terminal. None relies on "
        "colour alone."
    )
    ui.goto("live", "See it happen", icon=":material/play_circle:")
    ui.goto("replay", "Step through a real round", icon=":material/history:")


def show_rates() -> None:
    st.markdown(
        "One trace has several acceptance rates. A number without its definition cannot be compared with another."
    )
    rows = [{"rate": name, "definition": rate.formula, "note": rate.note} for name, rate in definitions.RATES.items()]
    st.dataframe(rows, hide_index=True)
    counts = text.counts_of(text.EXAMPLE_LENGTHS)
    st.subheader("One trace, many numbers", anchor="others")
    st.markdown(
        f"{counts.rounds} rounds of gamma {counts.drafted // counts.rounds}: {counts.drafted} tokens proposed, "
        f"{counts.accepted} accepted, "
        f"{counts.rejected} refused first, {counts.discarded} discarded, {counts.emitted} emitted."
    )
    ours, others = st.columns(2)
    number = {"value": st.column_config.NumberColumn(format="%.3f")}
    ours.dataframe([{"rate": k, "value": v} for k, v in counts.rates().items()], hide_index=True, column_config=number)
    others.dataframe(text.as_others_report(counts), hide_index=True, column_config=number)
    st.caption(
        "`exact`, `argmax` and `greedy_agreement` need p and q of every token of the vocabulary, which the counts do "
        "not hold."
    )
    st.subheader("What servers report", anchor="servers")
    st.dataframe(
        [
            {"server": s.title, "its figure": s.acceptance or "none", "comes from": s.reports, "how": s.text}
            for s in SERVERS.values()
        ],
        hide_index=True,
    )
    st.caption(SERVERS_NOTE)
    st.markdown(
        "Expected (`exact` on the trace) and sampled (`per_examined`) acceptance must agree. Each measurement checks "
        "it "
        "and raises an alarm if not."
    )


def show_losses() -> None:
    st.markdown(
        "p is the target's distribution, q the draft's. Sums run over the vocabulary; the mean is taken over the "
        "answers' tokens."
    )
    for loss in LOSSES.values():
        with st.container(border=True):
            kind = "black box: needs the target's text only" if loss.black_box else "white box"
            own = f" · parameter `{loss.parameter}`" if loss.parameter else ""
            st.markdown(f"**`{loss.name}`** · {kind}{own}  \n{ui.text(loss.text)}")
            st.latex(loss.formula)
            if loss.source:
                st.caption(f"Source: {ui.text(loss.source)}")
    st.caption("Losses can be added up with weights: `train.loss` takes a list. `draftbench losses` prints this table.")
    ui.goto("findings", "Which is best on your runs?", icon=":material/science:")


def show_modes() -> None:
    st.markdown(prose.MODES)
    for mode in MODES.values():
        show_card(mode, f"train.mode: {mode.name}")
        for variant in mode.variants:
            show_card(variant, variant.name)
    st.subheader("What the draft sees of the target", anchor="supervision")
    show_card(SUPERVISION["white_box"])
    show_card(SUPERVISION["black_box"], "train.loss: sft")
    show_card(SELECTION, SELECTION.name)
    show_card(LORA, LORA.name)
    st.subheader("Comparing modes fairly", anchor="fair")
    for kind in text.passages(prose.FAIRNESS):
        show_card(Card("", kind.title, kind.text, remark=kind.answer))
    ui.goto(
        "launch",
        "Train online",
        icon=":material/rocket_launch:",
        set=["train.mode=online", "train.online.stream=replay"],
    )
    ui.goto("findings", "Which is best on your runs?", icon=":material/science:")


def show_card(card: Card, setting: str = "") -> None:
    with st.container(border=True):
        st.markdown(f"**{card.title}**{f' · `{setting}`' if setting else ''}  \n{card.text}")
        if card.formula:
            st.latex(card.formula)
        if card.remark:
            st.markdown(f":material/shield: {card.remark}")
        if card.source:
            st.caption(f"Source: {ui.text(card.source)}")


def show_speed() -> None:
    st.markdown(
        "With acceptance alpha, a round of gamma proposals gives (1 - alpha^(gamma+1)) / (1 - alpha) tokens and costs "
        "gamma draft passes and one target pass. Try your own numbers; a measured run shows its alpha and c on its "
        "page."
    )
    settings, result = st.columns([1, 2])
    with settings:
        alpha = st.slider(
            "alpha, acceptance rate (per examined)", 0.0, 1.0, 0.7, 0.01, key="alpha", bind="query-params"
        )
        gamma = st.slider("gamma, tokens proposed per round", 1, 16, 3, key="gamma", bind="query-params")
        c = st.slider(
            "c, time of a draft pass / time of a target pass", 0.0, 1.0, 0.1, 0.01, key="c", bind="query-params"
        )
        show_figures_of(alpha, gamma, c)
    with result:
        alt = f"Expected speed-up by gamma at alpha {alpha:g} and c {c:g}"
        ui.chart(text.speedup_chart(alpha, gamma, c, theme.mode()), key="speedup", alt=alt, name="expected-speedup")
    st.caption(
        "After Leviathan et al., arXiv 2211.17192. The formula takes a pass over gamma + 1 tokens to cost as much as "
        "one "
        "over a single token, which is too kind: each run also has the prediction with measured times, and the "
        "speed-up on the clock."
    )


def show_figures_of(alpha: float, gamma: int, c: float) -> None:
    best = best_gamma(alpha, c)
    first, second = st.columns(2)
    first.metric("Tokens a round", f"{expected_tokens(alpha, gamma):.2f}")
    second.metric("Speed-up", f"{expected_speedup(alpha, gamma, c):.2f}x")
    first.metric(
        "Best gamma",
        f"{best}" if best else "none",
        help="The gamma up to 32 with the largest speed-up; none if all lose.",
    )
    second.metric(
        "Pays from alpha",
        f"{break_even_alpha(c, gamma):.2f}",
        help="At this gamma. With the best gamma: from alpha = c on.",
    )
    if expected_speedup(alpha, gamma, c) < 1:
        advice = f"gamma {best} would gain" if best else "no gamma gains: the draft is too slow for its acceptance"
        st.warning(
            f"At these numbers speculation is slower than plain decoding; {advice}.", icon=":material/trending_down:"
        )


def show_traps() -> None:
    st.markdown(
        "Each of these has misled users of well-known projects. Below each stands what Draftbench does about it."
    )
    for trap in text.passages(prose.TRAPS):
        st.markdown(f"**{trap.title}.** {trap.text}  \n:material/shield: {trap.answer}")


def show_statistics() -> None:
    for part in text.passages(prose.STATISTICS):
        st.markdown(f"**{part.title}.** {part.text}")


SHOW = {
    "words": show_words,
    "round": show_round,
    "rates": show_rates,
    "losses": show_losses,
    "modes": show_modes,
    "speed": show_speed,
    "traps": show_traps,
    "statistics": show_statistics,
}


def keep_topic() -> None:
    st.query_params["topic"] = st.session_state.chosen_topic


def render() -> None:
    """Draw the page."""
    ui.heading("learn")
    named = st.query_params.get("topic", "words")
    if named not in SHOW:
        url_warnings.not_here("topic", "words")
    st.session_state.chosen_topic = named if named in SHOW else "words"
    chosen = st.segmented_control(
        "Topic",
        list(SHOW),
        format_func=lambda key: text.TOPICS[key],
        key="chosen_topic",
        on_change=keep_topic,
        required=True,
        wrap=True,
        label_visibility="collapsed",
    )
    topic = chosen or "words"
    st.header(text.TOPICS[topic], anchor=topic)
    SHOW[topic]()
