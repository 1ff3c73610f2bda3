"""Fine-tuning on sentence tasks and question answering."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tokendrop_tf.finetuning.loading import FinetunedModel, load_finetuned

__all__ = ['FinetunedModel', 'load_finetuned']


def __getattr__(name):
  # On demand: the experiments, which loading needs, import this package.
  if name in __all__:
    from tokendrop_tf.finetuning import loading

    return getattr(loading, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
