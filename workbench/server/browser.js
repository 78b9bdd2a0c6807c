// What the workbench adds to its pages in the visitor's browser: light or dark, keyboard shortcuts, and names and roles
// that Streamlit's elements lack. Loaded before Streamlit; nothing here talks to the server.
(() => {
  "use strict"
  // [[keys, words, page's path or ""], ...], from workbench/server/in_browser.py
  const SHORTCUTS = JSON.parse(document.currentScript.dataset.shortcuts)
  const SECOND_KEY_MS = 1500 // within which the letter follows the g

  // ---- Light or dark. Streamlit follows the system's preference and listens for its change. The visitor's choice is
  // put in the place of that preference, so that every page follows it at once and Streamlit needs no choice of its own.
  const KEPT = "draftbench-look"
  const DARK = "(prefers-color-scheme: dark)"
  const ask = window.matchMedia.bind(window)
  const system = ask(DARK)

  function look() {
    try {
      const kept = localStorage.getItem(KEPT)
      return kept === "light" || kept === "dark" ? kept : "system"
    } catch { // a browser that keeps nothing
      return "system"
    }
  }

  class Preference extends EventTarget {
    media = DARK
    get matches() { return look() === "system" ? system.matches : look() === "dark" }
    addListener(listener) { this.addEventListener("change", listener) }
    removeListener(listener) { this.removeEventListener("change", listener) }
    changed() {
      const before = background()
      this.dispatchEvent(new Event("change"))
      mark()
      redraw(before)
    }
  }
  const preference = new Preference()
  window.matchMedia = query => (query.replaceAll(" ", "") === DARK.replaceAll(" ", "") ? preference : ask(query))
  system.addEventListener("change", () => preference.changed())
  addEventListener("storage", event => { if (event.key === KEPT) preference.changed() }) // chosen in another tab
  try { // what Streamlit's own menu may have kept would outweigh it
    for (const key of Object.keys(localStorage)) if (key.startsWith("stActiveTheme")) localStorage.removeItem(key)
  } catch { /* nothing is kept */ }

  // ---- Charts are drawn on the server in the page's colours, which it learns when the script runs: the page is run
  // again once it has its new background, by Streamlit's own shortcut.
  const background = () => {
    const app = document.querySelector("[data-testid=stApp]")
    return app ? getComputedStyle(app).backgroundColor : ""
  }

  function redraw(before) {
    const until = Date.now() + 5_000
    const wait = setInterval(() => {
      const now = background()
      if (now === before && Date.now() < until) return
      clearInterval(wait)
      if (now !== before && before) setTimeout(rerun, 100)
    }, 50)
  }

  const idle = () => document.querySelector("[data-testid=stApp][data-test-script-state=notRunning]")

  function rerun() { // Streamlit drops its shortcut while the script runs
    if (!idle()) return void setTimeout(rerun, 100)
    for (const type of ["keydown", "keyup"])
      document.body.dispatchEvent(new KeyboardEvent(type, { key: "r", code: "KeyR", keyCode: 82, which: 82, bubbles: true }))
  }

  function choose(wanted) {
    try { localStorage.setItem(KEPT, wanted) } catch { return }
    preference.changed()
  }

  // ---- The way back. Streamlit makes an entry of the browser's history of each parameter that a page adds to its own
  // address, and none of what a visitor chooses. Here it is the other way round: Back undoes the last choice, and leaves
  // a page at once where nothing was chosen on it.
  const push = history.pushState.bind(history)
  const replace = history.replaceState.bind(history)
  let acted = false // whether the visitor has done something since the address changed last
  let cleared = false // whether the last change was nothing but the removal of all parameters, before another page

  for (const kind of ["pointerdown", "keydown", "change"])
    addEventListener(kind, event => { if (event.isTrusted && !event.altKey) acted = true; cleared = false }, true)
  addEventListener("popstate", () => { acted = cleared = false })

  function moved(state, title, url) {
    const to = new URL(url ?? location.href, location.href)
    if (to.href === location.href) return replace(state, title, url)
    const elsewhere = to.pathname !== location.pathname
    const enter = elsewhere ? !cleared : acted // another page takes the place of the entry that has only lost its view
    cleared = !elsewhere && acted && to.search === ""
    acted = false
    return (enter ? push : replace)(state, title, url)
  }
  history.pushState = history.replaceState = moved

  // ---- Keyboard
  let first = { key: "", at: 0 }

  const WRITES = "input:not([type=checkbox],[type=radio],[type=range],[type=button]),textarea,select,[role=textbox]," +
    "[role=combobox],[role=listbox],[role=grid],[role=menu],[role=slider],[role=spinbutton],[contenteditable=true]," +
    "[data-testid=stDataFrame]"

  function pressed(event) {
    const on = event.target?.closest ? event.target : null // also an element of the frame, or of an event made by a script
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return
    if (on?.closest(WRITES) || document.querySelector("dialog[open],[role=dialog][aria-modal=true]")) return
    const after = Date.now() - first.at < SECOND_KEY_MS ? first.key : ""
    first = { key: "", at: 0 }
    const found = SHORTCUTS.find(([keys]) => keys === `${after}${event.key}` || keys === `${after} ${event.key}`)
    if (found) act(found[0], found[2])
    else if (event.key === "g") first = { key: "g", at: Date.now() }
    else return
    event.preventDefault()
    event.stopImmediatePropagation() // r and c are shortcuts of Streamlit's own
  }
  addEventListener("keydown", pressed, true)

  function act(keys, path) {
    if (keys === "?") help()
    else if (keys === "/") search()
    else go(path)
  }

  function go(path) {
    const links = [...document.querySelectorAll("[data-testid=stSidebarNavLink]")]
    const link = links.find(one => new URL(one.href).pathname === path)
    if (link) link.click()
    else location.assign(path)
  }

  const field = () => [...document.querySelectorAll("[data-testid=stMain] input[type=text],[data-testid=stMain] input[type=search]")]
    .find(one => /^(search|find)/i.test(one.getAttribute("aria-label") ?? "") && one.checkVisibility())

  function search() {
    if (field()) return field().focus()
    go(SHORTCUTS.find(([keys]) => keys === "/")[2])
    const until = Date.now() + 10_000
    const wait = setInterval(() => { // a field that has the focus while its page is being drawn may lose it again
      if (Date.now() < until && !(field() && idle())) return
      clearInterval(wait)
      field()?.focus()
    }, 200)
  }

  function help() {
    const box = document.createElement("dialog")
    box.className = "shortcuts"
    box.setAttribute("aria-labelledby", "shortcuts-title")
    box.dataset.dark = String(preference.matches)
    const title = Object.assign(document.createElement("h2"), { id: "shortcuts-title", textContent: "Keyboard shortcuts" })
    const table = document.createElement("table")
    for (const [keys, words] of SHORTCUTS) {
      const row = table.insertRow()
      for (const key of keys.split(" ")) {
        if (row.cells.length) row.cells[0].append(" then ")
        const cell = row.cells[0] ?? row.insertCell()
        cell.append(Object.assign(document.createElement("kbd"), { textContent: key }))
      }
      row.insertCell().textContent = words
    }
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" })
    close.addEventListener("click", () => box.close())
    box.addEventListener("close", () => box.remove())
    box.append(title, table, close)
    document.body.append(box)
    box.showModal()
  }

  // ---- The sidebar's buttons, which Streamlit draws from plain HTML
  document.addEventListener("click", event => {
    const button = event.target instanceof Element ? event.target.closest("button[data-look],button[data-shortcuts]") : null
    if (button?.dataset.look) choose(button.dataset.look)
    else if (button) help()
  })

  function mark() {
    for (const button of document.querySelectorAll("button[data-look]"))
      set(button, "aria-pressed", String(button.dataset.look === look()))
  }

  // ---- Roles and names that Streamlit's elements lack
  function set(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value)
  }

  function repair() {
    for (const list of document.querySelectorAll("ul[data-testid=stSidebarNavItems]")) { // a list of lists without lists
      set(list, "role", "presentation")
      for (const item of list.querySelectorAll("li")) set(item, "role", "presentation")
    }
    for (const frame of document.querySelectorAll("iframe[src^='/live/']")) follow(frame)
  }

  function follow(frame) { // keys that are pressed in the live view
    if (frame.dataset.followed) return
    frame.dataset.followed = "yes"
    const listen = () => frame.contentWindow?.addEventListener("keydown", pressed, true)
    frame.addEventListener("load", listen)
    listen()
  }

  let waiting = false
  new MutationObserver(() => {
    if (waiting) return
    waiting = true
    requestAnimationFrame(() => { waiting = false; repair(); mark() })
  }).observe(document, { childList: true, subtree: true })
})()
