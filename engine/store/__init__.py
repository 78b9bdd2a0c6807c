"""The index: a DuckDB file made from the run folders, which can always be made again.

transaction.py  all or nothing
connection.py   one writer or many readers, across threads and processes
schema.py       tables, as numbered migrations
documents.py    the JSON and YAML documents of a run folder, bounded and in words where damaged
run_folder.py   what a run folder holds, read without losing it to a damaged part
values.py       values of damaged files: None, or a ValueError
curves.py       training events to curve points, with redone steps left out
rows.py         the contents of a run folder into rows
ingest.py       run folders into the index, all or those that changed
queries.py      tables into data frames, for the pages and the command line
"""
