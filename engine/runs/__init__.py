"""Run folders: what a run is on disk, its life, and the pipeline that fills it."""
