"""Reports on runs: curves, tables, and a page of predictions."""
