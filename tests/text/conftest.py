"""Real text, for tests of tokenisation."""

from numbered_text import real_text  # noqa: F401  (a fixture)
