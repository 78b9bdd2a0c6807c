"""The browser application: a folder per page, its parts in `shared/`, the server around it in `server/`.

app        the server: Streamlit, the live view and the guards in one process
router     the script that opens the page of a URL
home/      best drafts, running jobs, first steps
launch/    start a run, a sweep or a study
runs/      the table of runs
run/       one run
compare/   drafts side by side
live/      decoding live
replay/    a trace step by step
explorer/  all runs at once: any two figures, settings that matter, curves
findings/  the paper's claims
learn/     words, losses, traps
shared/    what several pages use
server/    requests, routes, startup
"""

import logging

from engine.untrusted.visible import VisibleLog

logging.getLogger("draftbench").addFilter(VisibleLog())  # errors quote strangers' text, and end in a terminal
# Caches are declared when a module is loaded, before the server runs; Streamlit would remark on each.
logging.getLogger("streamlit.runtime.caching.cache_data_api").setLevel(logging.ERROR)
