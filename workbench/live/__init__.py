"""The live view: the Gradio app, what it shows, the decoding and the models behind it."""
