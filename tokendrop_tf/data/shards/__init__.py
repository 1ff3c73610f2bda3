"""Examples on disk: writing, index and reading."""
