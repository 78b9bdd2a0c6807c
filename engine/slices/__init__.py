"""Where a draft fails: acceptance by prompt group, place, kind of token and the target's entropy."""
