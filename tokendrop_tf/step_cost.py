"""Multiply-adds of a training step, counted from the layout of the encoder.

Letters: S sequence length, K tokens kept, P prediction slots, H hidden size,
I width of the feed-forward layers, V vocabulary, L layers.

A layer with q query rows and k key rows takes

    q H H            queries
    2 k H H          keys and values
    2 q k H          attention scores and their weighted sum
    q H H            attention output
    2 q H I          feed-forward

and the masked-LM head takes P (H H + H V). Embeddings, normalisation and
softmax are left out. The backward pass takes twice the forward pass of each, so
a share of the one is the same share of the other.
"""

import dataclasses

from tokendrop_tf import configs, keep_schedule


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


def plain_cost(task, last_layer_rows=None) -> StepCost:
  """Returns the cost without dropping.

  Args:
    task: a `configs.PretrainingTaskConfig`.
    last_layer_rows: query rows of the last layer; `None` is all S.
  """
  seq_length = task.train_data.seq_length
  layers = [(seq_length, seq_length)] * (task.model.num_layers - 1)
  layers.append((last_layer_rows or seq_length, seq_length))
  return _cost(task, layers)


def dropping_cost(task, last_layer_rows=None, keep_k=None) -> StepCost:
  """Returns the cost of a step that drops tokens.

  Args:
    task: as above.
    last_layer_rows: as above.
    keep_k: K; `None` is `token_drop.token_keep_k`.
  """
  seq_length = task.train_data.seq_length
  keep_k = keep_k or task.token_drop.token_keep_k
  crossing = configs.crossing_layer(task)
  layers = [(seq_length, seq_length)] * (crossing - 1)
  layers += [(keep_k, seq_length)]
  layers += [(keep_k, keep_k)] * (task.model.num_layers - crossing - 1)
  layers += [(last_layer_rows or seq_length, seq_length)]
  return _cost(task, layers)


def expected_saving(task) -> float:
  """Returns the share of a step's multiply-adds that dropping saves.

  The comparison is the same code with `token_drop.policy = 'none'`, which also
  runs the last layer at the predicted positions only. Steps without dropping
  (`token_drop.full_step_every`) count as such, the buckets of
  `token_drop.keep_schedule` by their length.

  Args:
    task: a `configs.PretrainingTaskConfig`.
  """
  if task.token_drop.policy == 'none':
    return 0.0
  rows = predicted_rows(task)
  plain = plain_cost(task, rows).total
  saving = sum(
    share * (1.0 - dropping_cost(task, rows, keep_k).total / plain)
    for share, keep_k in keep_schedule.shares(task.token_drop)
    if keep_k is not None
  )
  every = task.token_drop.full_step_every
  return saving * (1.0 - 1.0 / every) if every else saving


def predicted_rows(task) -> int:
  """Returns the rows that pretraining asks of the last layer."""
  heads_row = 1 if task.model.use_next_sentence_head else 0
  return task.train_data.max_predictions_per_seq + heads_row


def _cost(task, layers) -> StepCost:
  model, data = task.model, task.train_data
  width = model.hidden_size
  return StepCost(
    encoder=sum(
      _layer(queries, keys, width, model.intermediate_size)
      for queries, keys in layers
    ),
    head=data.max_predictions_per_seq
    * (width * width + width * model.vocab_size),
  )


def _layer(queries, keys, width, inner_width):
  projections = 2 * (queries + keys) * width * width
  attention = 2 * queries * keys * width
  feed_forward = 2 * queries * width * inner_width
  return projections + attention + feed_forward
