"""A learning rate that follows the tokens that were computed, not the steps."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tokendrop_tf.dropping.configured import Dropping


class TokenClock(tf_keras.optimizers.schedules.LearningRateSchedule):
  """A schedule that is read at the share of tokens computed so far.

      rate(T c(t) / c(T)),   c(t) = tokens of the mean layer in steps 1 to t

  of a run of T steps: where few tokens are kept at first, the rate rises and
  falls more slowly there, and ends where it would have ended (Yao et al., 2022,
  arXiv 2211.11586). c follows from the keep schedule, so there is no state.

  Args:
    rate: a schedule, function of the step to the learning rate.
    dropping: of the run; its keep schedule knows T.
  """

  def __init__(
    self, rate: Callable[[tf.Tensor], tf.Tensor], dropping: Dropping
  ):
    super().__init__()
    self._rate = rate
    kinds = dropping.kinds.schedule
    self._starts = kinds.first_steps
    self._lengths = [
      end - start
      for start, end in zip(self._starts, [*self._starts[1:], kinds.num_steps])
    ]
    tokens = [dropping.layer_tokens(kind) for kind in kinds.values]
    computed = sum(n * t for n, t in zip(self._lengths, tokens))
    self._speeds = [kinds.num_steps * t / computed for t in tokens]

  def __call__(self, step):
    since = tf.cast(step, tf.float32) - tf.constant(self._starts, tf.float32)
    taken = tf.clip_by_value(since, 0.0, tf.constant(self._lengths, tf.float32))
    return self._rate(tf.reduce_sum(taken * self._speeds))
