"""Compare: the heat map over all runs, and two to six drafts side by side."""

from workbench.compare import page

page.render()
