// The turns of a conversation, a row each. Gradio runs this once, with `element`, `props` and `watch`. The messages are
// in `props.value` and nowhere else, so that Decode sends what is on the screen. All text is set as text, never as HTML.
const ROLES = ["user", "assistant", "tool"];
const SHOWN = new Set(["role", "content", "tool_calls"]);
const rows = element.querySelector(".turns");
const turns = () => JSON.parse(JSON.stringify(props.value || []));
let drawn = null;

function make(tag, attributes, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function keep(changed, again) {
  drawn = JSON.stringify(changed);
  props.value = changed;
  if (again) draw();
}

function edit(place, key, value, again) {
  const changed = turns();
  if (value === undefined) delete changed[place][key];
  else changed[place][key] = value;
  keep(changed, again);
}

function area(place, key, text, name, hint) {
  const made = make("textarea", { "aria-label": name, placeholder: hint, rows: key === "content" ? 2 : 3, dir: "auto" });
  made.value = text;
  made.addEventListener("input", () => edit(place, key, made.value, false));
  return made;
}

function row(turn, place, all) {
  const name = all.length === 1 && turn.role === "user" ? "Prompt" : `Turn ${place + 1}`;
  const made = make("div", { class: "turn" });
  const head = make("div", { class: "head" });
  const role = make("select", { "aria-label": `Who speaks in turn ${place + 1}` });
  for (const one of ROLES.includes(turn.role) ? ROLES : [...ROLES, turn.role]) {
    role.append(make("option", { value: one }, one));
  }
  role.value = turn.role;
  role.addEventListener("change", () => edit(place, "role", role.value, true));
  head.append(make("span", { class: "name" }, name), role);
  if (turn.role === "assistant" && turn.tool_calls === undefined) {
    const calls = make("button", { type: "button" }, "Add calls");
    calls.addEventListener("click", () => edit(place, "tool_calls", "", true));
    head.append(calls);
  }
  const remove = make("button", { type: "button", "aria-label": `Remove ${name}` }, "Remove");
  remove.addEventListener("click", () => keep(turns().filter((_, other) => other !== place), true));
  if (all.length > 1) head.append(remove);
  const hint = turn.role === "tool" ? "What the tool sent back" : turn.role === "user" ? "Ask the target something" : "";
  made.append(head, area(place, "content", turn.content || "", name, hint));
  if (turn.tool_calls !== undefined) {
    const calls = turn.tool_calls;
    const text = typeof calls === "string" ? calls : JSON.stringify(calls, null, 1);
    made.append(area(place, "tool_calls", text, `Calls of ${name}`, '[{"name": ..., "arguments": {...}}], as JSON'));
  }
  const others = Object.entries(turn).filter(([key]) => !SHOWN.has(key));
  if (others.length) {
    const sent = others.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ");
    made.append(make("p", { class: "others" }, `Sent along: ${sent}`));
  }
  return made;
}

function draw() {
  if (!props.value) {
    drawn = null;
    rows.replaceChildren(make("p", { class: "loading" }, "Loading ..."));
    return;
  }
  const all = turns();
  drawn = JSON.stringify(all);
  const add = make("button", { type: "button", class: "add" }, "Add a turn");
  add.addEventListener("click", () => {
    const now = turns();
    const last = now.length ? now[now.length - 1].role : "assistant";
    keep([...now, { role: last === "user" ? "assistant" : "user", content: "" }], true);
    rows.querySelector(".turn:last-of-type textarea").focus();
  });
  rows.replaceChildren(...all.map(row), add);
}

watch("value", () => {
  if (JSON.stringify(turns()) !== drawn) draw();
});
draw();
