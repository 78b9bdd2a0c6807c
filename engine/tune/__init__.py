"""Domain targets: a base model fine-tuned with LoRA on a domain's references, and what that changed."""
