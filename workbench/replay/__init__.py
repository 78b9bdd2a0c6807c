"""The page of a stored trace.

page       the page
judgement  how a token was judged
figures    the figures of a step
"""
