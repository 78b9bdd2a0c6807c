"""Findings: the paper's claims, tested on the runs in this home."""

from workbench.findings import page

page.render()
