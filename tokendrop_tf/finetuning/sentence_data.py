"""Batches of tokenized sentences and pairs, made while training.

Letters: N rows, B batch of a replica, S sequence length.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tokendrop_tf.config import configs, finetuning_configs, glue_tasks
from tokendrop_tf.finetuning import batches, table_files
from tokendrop_tf.text import text_to_ids
from tokendrop_tf.text import vocabulary as vocabulary_lib


def task_of(glue: finetuning_configs.GlueConfig) -> glue_tasks.GlueTask:
  """Returns the task's columns and labels as the tree has them."""
  return glue_tasks.resolve(
    glue.task,
    label_names=tuple(glue.label_names),
    is_regression=glue.is_regression,
    text_column=glue.text_column,
    text_pair_column=glue.text_pair_column,
    label_column=glue.label_column,
    index_column=glue.index_column,
    column_names=tuple(glue.column_names),
  )


def read_texts(
  data: finetuning_configs.TextDataConfig,
  glue: finetuning_configs.GlueConfig,
  setting: str,
  needs_labels: bool = True,
) -> table_files.LabelledTexts:
  """Reads what a data section names; see `table_files.read`."""
  return table_files.read(
    table_files.Source.of(data), layout_of(glue), setting, needs_labels
  )


def layout_of(glue: finetuning_configs.GlueConfig) -> table_files.Layout:
  """Returns how the files of a task are read."""
  return table_files.Layout(
    task_of(glue), glue.is_regression, glue.malformed_rows == 'skip'
  )


@dataclasses.dataclass(frozen=True)
class SentenceBatches:
  """Turns rows into batches.

  Features: `input_word_ids`, `input_mask`, `input_type_ids`, int32 [B, S];
  `example_id`, int64 [B], -1 for rows that only fill up a batch; `label_ids`,
  int32 or float32 [B].

  Attributes:
    texts: the rows.
    vocabulary: the vocabulary section.
    data: batch size, S and seed.
  """

  texts: table_files.LabelledTexts
  vocabulary: configs.VocabularyConfig
  data: finetuning_configs.TextDataConfig

  def dataset(
    self,
    context: tf.distribute.InputContext | None = None,
    first_batch: int = 0,
  ) -> tf.data.Dataset:
    """Returns the batches of one pipeline; see `batches.make_batches`."""
    words = vocabulary_lib.Vocabulary.of(self.vocabulary)
    packer = text_to_ids.TextPacker(words, self.data.seq_length)
    columns = [tf.constant(self.texts.texts)]
    if self.texts.pair_texts is not None:
      columns.append(tf.constant(self.texts.pair_texts))
    labels = self.texts.labels
    if labels is None:
      labels = np.zeros(self.texts.num_rows, np.int32)
    labels = tf.constant(labels)

    def rows_to_batch(rows):
      features = packer(*[tf.gather(column, rows) for column in columns])
      return {**features, 'label_ids': tf.gather(labels, rows)}

    return batches.make_batches(
      self.data, self.texts.num_rows, rows_to_batch, context, first_batch
    )
