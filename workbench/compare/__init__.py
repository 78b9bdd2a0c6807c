"""The page that compares drafts.

page        the page
every_run   the heat map over all runs of a domain
by_study    the filter by study
comparison  everything that is shown of some drafts, prepared once
figures     figures
tables      tables
speeds      the speed of each draft at its own best gamma and at one for all
slices      where each draft fails
prompts     single prompts
report      a comparison as one HTML file
report_style  its styles
"""
