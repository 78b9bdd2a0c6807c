"""Distillation: losses, batches, the trainer, and one module a mode."""
