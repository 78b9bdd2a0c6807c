"""Domain targets: a base model fine-tuned with LoRA on a domain's references, and the effect.

recipe          the recipe of a target
pipeline        from a recipe to a target with figures
examples        records with a reference as token ids
adapter         the LoRA adapter
training        the training loop
figures         perplexity and valid calls, before and after
function_calls  is an answer a valid call?
folder          the folder of a target
"""
