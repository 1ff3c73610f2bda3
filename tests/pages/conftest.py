"""The numbered text, for tests of pages on data."""

from numbered_text import numbered_text  # noqa: F401  (a fixture)
