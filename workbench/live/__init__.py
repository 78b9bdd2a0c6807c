"""The live view.

page             the page, which frames the Gradio app
frame.js         the frame of the page: what loads it again
gradio_app       the Gradio app, mounted or served alone
form             its form and buttons
turns_editor     the editor of a conversation's turns
turns_editor.js  its script
visitors         what a visitor's buttons do
conversation     what is sent: system text, turns, tools; the samples
address          the view's URL, read and written
drafts           the drafts that are offered
sent             the prompt as the target's template writes it
decode           decoding for a visitor
pairs            loaded models, shared by all visitors
answer_html      the output as HTML
__main__         the live view alone: `python -m workbench.live`
"""
