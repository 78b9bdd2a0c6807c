"""Studies: grids of runs that share captures. A study has no state besides its recipe and the run folders."""
