"""Reports and HTML pages over runs and data."""
