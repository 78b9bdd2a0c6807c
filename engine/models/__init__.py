"""Loading models: where they come from, how target and draft fit together, the draft's first weights."""
