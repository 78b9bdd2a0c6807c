// The frame around the live view. A frame that is loaded again has lost the visitor's answer, so that is done only where
// the page asks for what it has not asked before, and the frame does not show. Streamlit runs the page now with the address
// that the frame has written into the browser's, now with the one before.
const asked = (search) =>
  JSON.stringify([...new URLSearchParams(search)].filter(([name, value]) => value && name !== "__theme").sort());

export default function ({ parentElement, data }) {
  const frame = parentElement.querySelector("iframe"), alone = parentElement.querySelector("a");
  const address = () => { // the view itself changes it when something is decoded (`form._KEEP`)
    try {
      const { href } = frame.contentWindow.location;
      return new URL(href === "about:blank" ? frame.src : href);
    } catch { // nothing is asked for yet, or the server did not answer
      return null;
    }
  };
  const dress = () => { // light or dark, which Gradio reads from the address when it is loaded
    const shown = address(), view = frame.contentWindow;
    if (!shown || view.location.href === "about:blank") return;
    view.document.body?.classList.toggle("dark", data.theme === "dark");
    shown.searchParams.set("__theme", data.theme);
    view.history.replaceState(view.history.state, "", shown);
  };
  const wanted = asked(data.search), served = (frame.served ??= new Set()); // what it was asked for since it was loaded
  if (!address() || (!served.has(wanted) && wanted !== asked(address().search))) {
    served.clear();
    frame.src = `${data.path}?${new URLSearchParams([["__theme", data.theme], ...new URLSearchParams(data.search)])}`;
  } else {
    dress();
  }
  served.add(wanted);
  frame.onload = dress;
  alone.onpointerdown = alone.onfocus = () => { alone.href = address() ?? frame.src; };
  alone.href ||= frame.src;
}
