"""Export: a trained draft for use elsewhere.

of_run            export a run's draft and check the result
huggingface       the Hugging Face folder, loaded again to check it
model_card        its model card
check_text        the text that an export is checked on
whole_vocabulary  a trimmed draft with all of its target's ids
small_draft       a checkpoint small enough to share
"""
