"""From a measured draft to the server that people use: what to expect of it there, and what the server reported.

expected      what to expect of each server: rates, speed, schedule, flags
schedule      the best gamma by batch size in each server's form
synthetic     the flags that make a server accept as often without the draft
worth         is a draft worth it? one sentence
by_gamma      a draft's speed at each gamma: measured at one, predicted at the others
prediction    what a server should count, from a run's measurement
importing     a server's figures as a served measurement
measurements  served measurements in a run's folder
detection     which server answers at an address
probe         asking a live server
probe_counts  figures of answers and of /metrics as one
probe_prompts  the prompts that a probe sends
figures       predicted beside served, with intervals
causes        why the two differ, ranked by evidence
verdict       agrees, differs, or open
readers/      what servers report, read
parity                a run's draft on a real server, beside what was predicted
parity_forms          the draft and its target as the server loads them
parity_bench          servers that are started, asked and ended again
parity_texts          texts read by our own target and draft: fates, margins, calibration
parity_rows           from answers to a row of the report, with its verdict
server_rounds         the rounds that a server makes over a text, by its own rule
serving               what a server is asked and what it answers
llama_server          llama.cpp's server
vllm_server           vLLM's server
vllm_cpu_correction   corrects one fault of vLLM's CPU build
server_process        a server as a process: loopback, a log, never left behind
server_setup          servers fetched into the cache, or found
answer_log            answers on disk, for going on later
"""
