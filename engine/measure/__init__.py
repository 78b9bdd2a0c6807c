"""Measuring a draft: acceptance, speed, cost model, certificate, and comparisons with intervals.

suite             everything that is measured of a draft, in order
target_alone      a target without a draft: how fast it decodes
definitions       the measured rates, their meaning and other systems' names
acceptance        exact acceptance: sum min(p, q) on the target's text
exact_tables      exact acceptance as metrics and tables
trace             rounds of decoding as tables
text_rounds       the rounds that a server makes over a text
speed             speed on the clock
speed_summary     what a timing says: tokens a second, the speed-up, the cost model
load              how busy other processes kept the machine meanwhile
step_times        seconds of a round by batch size, context and gamma
speed_words       a timing in words
interval_words    a rate or a change with its interval, where there are prompts enough
decision          serve the draft or not, in one sentence
step_words        step times in words
cost_model        expected speed-up
predicted_speed   the speed-up at each gamma from tokens per round and timed rounds
certificate       is the output still exactly the target's?
certificate_pair  checks of the certificate on this pair of models
statistics        intervals and tests for ratios of sums
compare           the paired comparison of two drafts
"""
