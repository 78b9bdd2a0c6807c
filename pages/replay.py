"""Replay: step through a stored trace."""

from workbench.replay import page

page.render()
