"""The page that explains the words, losses and traps.

page   the page
prose  its texts
text   its worked figures
"""
