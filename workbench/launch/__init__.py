"""The page that starts runs, sweeps and studies.

page          the page
starting      where a new run begins, and its command line
form          the form made from the schema
parts         nested sections of the form
from_address  what a link may fill in
from_findings  the study that would decide a claim
where         where runs are worked on
steps_view    what a run will do
cost_view     what it will take
sweep_view    sweeps
studies_view  studies
"""
