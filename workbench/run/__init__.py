"""The page of one run.

page         the page
view         its state, log and next steps
facts        how the draft learns
results      the measurement
stream_view  acceptance along an online stream
folder_view  configuration, origin, files
files        what the run's files say while it works
labels       its labels
export_job   exporting its draft in the background
"""
