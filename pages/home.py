"""Home: the best draft for each target, what is running, first steps, and whether this machine is ready."""

from workbench.home import page

page.render()
