"""The numbered text and tiny tasks, for tests of benchmarks."""

from numbered_text import numbered_text  # noqa: F401  (a fixture)
from tiny_tasks import tiny_tasks, words  # noqa: F401  (fixtures)
