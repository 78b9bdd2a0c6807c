"""Live: watch tokens being proposed and judged as they are decoded."""

from workbench.live import page

page.render()
