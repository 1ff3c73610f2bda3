"""Fine-tuning on sentence tasks and question answering."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tokendrop_tf.export.load_model import LoadedModel as FinetunedModel
  from tokendrop_tf.export.load_model import load_finetuned

__all__ = ['FinetunedModel', 'load_finetuned']


def __getattr__(name):
  # On demand: the loader of trained models stands above this room.
  if name in __all__:
    from tokendrop_tf.export import load_model

    public = {
      'FinetunedModel': load_model.LoadedModel,
      'load_finetuned': load_model.load_finetuned,
    }
    return public[name]
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
