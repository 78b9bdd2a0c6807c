"""The page of one run.

page            the page
header          run picker, name, state, and what went wrong
controls        cancel, resume, run again, and links to other pages
progress        the progress of an unfinished run
stage           how far its current phase is, from the status file
facts           mode, supervision, loss and effort
results         metrics, rates and certificate
curves          section Curves
training_curve  the curve of a run in training, from its events
stream_chart    acceptance along an online run's stream
log             section Log
configuration   section Configuration
origin          section Origin
files           section Files
take_away       drafts, log and traces to download
export          part of Serve: check the pair, write the draft, progress, stop
export_form     the settings of an export, as fields and as options of the command
pair            what the server would say to the pair
served          what servers reported of the draft
export_job      an export in a process of its own
serve           section Serve: the parts for one server
preflight_job   whether a server would take the pair, in a process of its own
expected        part of Serve: what servers should do with the draft
labels          section Labels
"""
