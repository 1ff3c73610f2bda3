"""Trees of experiments from gin, as `tokendrop_tf.train` builds them."""

from tokendrop_tf.config import experiments, gin_reader, gin_sections
from tokendrop_tf.finetuning import complete_settings


def build(*bindings, files=(), name=None):
  """Returns the tree of what is bound, and nothing that is bound is unused.

  Args:
    *bindings: gin statements.
    files: gin files before them.
    name: the experiment; `None` is the one whose sections are bound.
  """
  parsed = gin_reader.parse([str(file) for file in files], bindings)
  gin_reader.check_macros(parsed)
  name = name or experiments.of_bindings(parsed)
  values = gin_sections.GinValues()
  params = experiments.build(name, values)
  if name != experiments.PRETRAINING:
    complete_settings.take_start(params.task, values)
  gin_reader.check_all_used(parsed)
  return params
