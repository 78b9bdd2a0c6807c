"""Taking a trained draft elsewhere: Hugging Face folders with a model card."""
