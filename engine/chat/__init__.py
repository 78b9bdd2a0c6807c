"""Conversations: one form for all spellings, the target's chat template, and what ends an answer.

finish_reasons   how servers and logs say that an answer ended
messages         the normal form of a chat, made when a record is read
prompt           a prompt, and the identity of a list of prompts
rendering        a prompt as token ids, through the chat template
template_date    pins the date that a template writes
template_safety  refuses templates that do not end or take too much memory
marks            prompts that hold a mark of the template as text
token_ids        a text as token ids
turns            which ids end an answer
unwritten        what a template leaves out of a prompt, or writes elsewhere
"""
