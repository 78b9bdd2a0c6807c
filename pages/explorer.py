"""Explorer: all runs at once."""

from workbench.explorer import page

page.render()
