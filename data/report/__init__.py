"""A run for people to look at: curves, tables, the page of its predictions."""
