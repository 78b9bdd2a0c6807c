"""Run: one run's progress, results, log, configuration and files."""

from workbench.run import page

page.render()
