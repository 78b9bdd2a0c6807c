"""The server around the pages.

guard           which requests are answered
allowed_routes  closes routes that are not used
page_head       adds to the head of each page: our script, and the base URL
browser.js      light or dark, keyboard shortcuts, and roles that Streamlit's elements lack
startup         warnings, sample runs, index and queue at the start
"""
