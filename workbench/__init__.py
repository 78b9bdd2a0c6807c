"""The browser workbench. It comes on top of `engine`, which never imports it."""
