"""Where a draft fails: any rate by kind of token, prompt group, place and entropy, and prompts to train on for it.

kinds           the kind of each token of an answer, by its text
function_words  function words by language, for the kinds
categories      prompt groups under SPEED-Bench's names
reading         a target's tokens as text, by its tokenizer alone
tokens          what a run measured, a row per token with its slice
slices          a rate by slice, and two drafts by slice
of_run          slices of a run, alone or against another
selection       the fewest prompts that hold a share of the refusals
focus           a training set of the prompts that a draft is refused on most
"""
