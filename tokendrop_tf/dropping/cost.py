"""Multiply-adds of a train step, counted from the rows of its layers.

Letters: S sequence length, K tokens kept, P prediction slots, H hidden size,
I width of the feed-forward layers, V vocabulary, L layers.

A layer with q query rows and k key rows takes

    q H H            queries
    2 k H H          keys and values
    2 q k H          attention scores and their weighted sum
    q H H            attention output
    2 q H I          feed-forward

and the masked-LM head takes P (H H + H V). Embeddings, normalisation and
softmax are omitted. The backward pass takes twice the forward pass of each, so
a share of the one is the same share of the other.
"""

import dataclasses
from collections.abc import Sequence

from tokendrop_tf.dropping.configured import Dropping
from tokendrop_tf.dropping.rows import LayerRows
from tokendrop_tf.dropping.step import Step


@dataclasses.dataclass(frozen=True)
class StepCost:
  """Multiply-adds of one sequence, forward.

  Attributes:
    encoder: of all layers.
    head: of the masked-LM head.
  """

  encoder: int
  head: int

  @property
  def total(self) -> int:
    return self.encoder + self.head


def step_cost(
  task,
  keep_k: int | None,
  last_layer_rows: int | None = None,
  causal: bool = False,
) -> StepCost:
  """Returns the cost of a step.

  Args:
    task: a `configs.PretrainingTaskConfig`.
    keep_k: tokens that the step keeps; `None` is all.
    last_layer_rows: query rows of the last layer; `None` is all S.
    causal: whether every token has a label, the next one.
  """
  layers = Dropping.of(task).rows(keep_k)
  if last_layer_rows is not None:
    layers[-1] = layers[-1]._replace(queries=last_layer_rows)
  return _cost(task, layers, causal)


def expected_saving(task) -> float:
  """Returns the share of a step's multiply-adds that dropping saves.

  The comparison is the same code without dropping, which also runs the last
  layer at the predicted positions only. Every kind of step counts by its share
  of the run.

  Args:
    task: a `configs.PretrainingTaskConfig`.
  """
  plain = sum(
    share * kind_cost(task, Step(None, causal=kind.causal))
    for share, kind in Dropping.of(task).kinds.shares
  )
  return 1.0 - mean_cost(task) / plain


def mean_cost(task) -> float:
  """Returns the multiply-adds of the mean step of a run, of one sequence."""
  return sum(
    share * kind_cost(task, kind)
    for share, kind in Dropping.of(task).kinds.shares
  )


def kind_cost(task, kind: Step) -> int:
  """Returns the multiply-adds of a step of one kind, of one sequence."""
  rows = kind.last_layer_rows(
    predicted_rows(task, kind.causal), task.train_data.seq_length
  )
  return sum(
    step_cost(task, keep_k, rows, kind.causal).total for keep_k in kind.passes
  )


def predicted_rows(task, causal: bool = False) -> int:
  """Returns the rows that pretraining asks of the last layer."""
  heads_row = 1 if task.model.use_next_sentence_head else 0
  return num_labels(task, causal) + heads_row


def num_labels(task, causal: bool = False) -> int:
  """Returns the label slots of a sequence."""
  data = task.train_data
  return data.seq_length - 1 if causal else data.max_predictions_per_seq


def _cost(task, layers: Sequence[LayerRows], causal) -> StepCost:
  model = task.model
  width = model.hidden_size
  return StepCost(
    encoder=sum(
      _layer(queries, keys, width, model.intermediate_size)
      for queries, keys in layers
    ),
    head=num_labels(task, causal) * (width * width + width * model.vocab_size),
  )


def _layer(queries, keys, width, inner_width):
  projections = 2 * (queries + keys) * width * width
  attention = 2 * queries * keys * width
  feed_forward = 2 * queries * width * inner_width
  return projections + attention + feed_forward
