"""Learn: the words, the losses with their formulas, and the traps."""

from workbench.learn import page

page.render()
