"""The browser workbench, on top of `engine`, which never imports it.

One folder per page: `<page>/page.py` draws it, with its parts beside it. `shared/` has what several pages use,
`server/` the middleware and the start.
"""

import logging

from engine.untrusted.visible import VisibleLog

logging.getLogger("draftbench").addFilter(VisibleLog())  # errors quote untrusted text and are printed to a terminal
# Caches are declared on import, before the server runs, and Streamlit would warn about each.
logging.getLogger("streamlit.runtime.caching.cache_data_api").setLevel(logging.ERROR)
