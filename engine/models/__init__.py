"""Models: where they come from, how they are loaded and checked, and the draft's first weights.

locate       from a name to a folder on this disk
load         from a specification to a loaded model
context      how long a text a model can read, and a pair
draft        the draft: its first weights and its files
ends         embeddings and head, which a draft can share with its target
masters      float32 masters of a model that trains in another dtype
layers       settings that speak of layers, when some are taken out
shallow      a model with some of its target's layers
head         splitting a model at its output head
placement    where the layers of a model lie that is larger than one card
team         tensor parallelism: processes that make the same calls
split        a target split over them, by Transformers' own plan
quantised    models whose layers are stored in few bits
precision    a model converted to another precision
vocabulary   do two models share ids; which ids a draft proposes
fused_linears  linear layers on a CPU: one product from packed weights for all that read the same input
int8           linear layers with int8 weights on a CPU
embeddings   the identity of embeddings and head
adapter      a PEFT adapter merged into its base
lora         a draft's own adapter: its weights, merged and as PEFT keeps it
tokenizer    the tokenizer of a target
folder       a model folder, checked before it is built
gguf         a GGUF file converted to a plain folder
gguf_settings  settings in a GGUF header that Transformers does not read
gguf_header  strict reading of a GGUF header
tensor_file  a safetensors file written tensor by tensor
assets       model files inside Python packages
hashes       hashes of a model's files, remembered for large ones
"""
