"""`python -m workbench.live`: the live view alone."""

from workbench.live.gradio_app import main

main()
