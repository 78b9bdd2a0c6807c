"""The page of the paper's claims.

page        the page
view        claims as tables and sentences
acceptance  acceptance of every method, seeds together
figures     figures
report      the findings as one HTML file
"""
