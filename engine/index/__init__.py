"""The DuckDB index over the run folders; it can be rebuilt from them at any time.

connection   one writer or many readers, across processes
kept_reader  one DuckDB instance for the readers of a moment
schema       the tables, as numbered migrations
ingest       run folders into tables
changes      which run folders the index does not hold as they are now
contents     what of a run folder is indexed
rows         a run's documents as rows
transaction  all or nothing
curves       training events as points of a curve
queries      the index as data frames
efforts      what a run took and what its draft costs
expressions  runs by a condition over any setting and figure
"""
