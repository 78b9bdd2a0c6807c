"""Launch: start a run, a sweep or a study from a recipe."""

from workbench.launch import page

page.render()
