"""The Run page: state, results, files and export of one run."""
