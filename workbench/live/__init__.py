"""The live view.

page         the page, which frames the Gradio app
gradio_app   the Gradio app
answer_html  its output as HTML
decode       decoding for a visitor
pairs        loaded models, shared by all visitors
__main__     the live view alone: `python -m workbench.live`
"""
