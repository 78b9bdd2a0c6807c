"""Runs: every run in one table, to filter, group and label."""

from workbench.runs import page

page.render()
