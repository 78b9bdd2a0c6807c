"""Everything that talks to an OpenAI-compatible server.

client          the client: retries, waits, keeps the key secret
http            one bounded HTTP exchange
keys            which key may be sent to which server
requests        many prompts at once
request_rate    how fast requests may begin
prompt_request  a prompt as a request, and its reply as token ids
replies         the body of an answer
reply_tokens    tokens and log-probabilities of an answer
token_counts    a server's count of tokens: what cannot be, what is far off
capture         a capture whose text comes from a server
logprobs        a server's token ids and log-probabilities
likeliest       the likeliest tokens that a server sends, as a compact signal
signal_counts   how far the signal of a served capture reaches
server_checks   what a server must show before its answers are learnt from
pool            several servers that share the load
speed           how fast a server answers
acceptance      acceptance without the target's weights
agreement       agreement with a server's greedy text
"""
