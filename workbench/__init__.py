"""The browser workbench. It comes on top of `engine`, which never imports it.

The modules here are shared by all pages; a folder holds what only the page of its name is made of.
"""
