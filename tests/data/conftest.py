"""The numbered text and real text, for tests of data."""

from numbered_text import numbered_text  # noqa: F401  (a fixture)
