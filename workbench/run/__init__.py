"""What the page of one run is made of: its state, results, files and export."""
