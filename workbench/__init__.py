"""The browser workbench. It comes on top of `engine`, which never imports it.

The modules here are shared by all pages; a folder holds what only the page of its name is made of.
"""

import logging

from engine.untrusted.visible import VisibleLog

logging.getLogger("draftbench").addFilter(VisibleLog())  # errors quote strangers' text, and end in a terminal
# Caches are declared when a module is loaded, before the server runs; Streamlit would remark on each.
logging.getLogger("streamlit.runtime.caching.cache_data_api").setLevel(logging.ERROR)
