"""The live view: the Gradio app, its output, the decoding, and the loaded models."""
