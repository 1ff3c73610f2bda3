"""Concurrent requests in common batches, by TensorFlow's batching operation.

TF Serving batches by it, too. While the model computes,
requests gather; when it is done, the oldest ones that fit together (the same
signature, rows of the same shapes) become the next batch. The operation has the
rows of two batches, one that computes and one that gathers. All others wait
outside, where a request that is given up is forgotten.
"""

import asyncio
import dataclasses
import itertools
import threading
from concurrent import futures

import numpy as np
import tensorflow as tf

from tokendrop_tf.serving import served_model, status

Arrays = dict[str, np.ndarray]

# The operation's queues are told apart by name within the process.
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class BatchingSettings:
  """Limits of the batches that requests are joined to.

  Attributes:
    max_batch_size: rows that the model sees at once.
    timeout_seconds: how long an incomplete batch waits for more rows while the
      model is idle.
    max_queued_rows: rows that wait in addition to two batches; a request beyond
      is refused.
  """

  max_batch_size: int = 32
  timeout_seconds: float = 0.002
  max_queued_rows: int = 1024


class Batcher:
  """Answers concurrent requests of one model in batches, one after another.

  A request that makes a batch fail fails alone: all requests of that batch are
  run again, each by itself. One that is cancelled while it waits is not run.

  Args:
    model: what answers.
    settings: limits.

  Example:
    batcher = Batcher(model, BatchingSettings())
    outputs = await batcher.submit('', {'text': np.array([b'a'], object)})
    await batcher.close()
  """

  def __init__(
    self, model: served_model.Signatures, settings: BatchingSettings
  ):
    self._model = model
    self._settings = settings
    self._name = f'{model.name}-{next(_numbers)}'
    self._functions = {}
    self._lock = threading.Lock()
    # Rows in the operation, one that computes and one batch that gathers, and
    # rows that wait for their turn.
    self._capacity = 2 * settings.max_batch_size
    self._rows_inside = self._rows_waiting = 0
    self._turn = asyncio.Lock()
    self._rows_have_left = asyncio.Event()
    # One for every piece of a request in the operation.
    self._threads = futures.ThreadPoolExecutor(self._capacity, 'requests')

  async def submit(self, signature: str, inputs: Arrays) -> Arrays:
    """Returns the outputs for `inputs`, whatever else is in their batches.

    Raises:
      RequestError: 503 if too many rows wait, or what the model raises.
    """
    num_rows = len(next(iter(inputs.values())))
    rows = self._rows_inside + self._rows_waiting + num_rows
    if rows > self._capacity + self._settings.max_queued_rows:
      raise status.RequestError(
        f'The queue of requests is full: {self._rows_waiting} rows wait. '
        f'Received: {num_rows} more',
        status.UNAVAILABLE,
      )
    self._rows_waiting += num_rows
    step = self._settings.max_batch_size
    pieces = [
      self._answer_in_turn(
        signature, {name: value[i : i + step] for name, value in inputs.items()}
      )
      for i in range(0, num_rows, step)
    ]
    parts = await asyncio.gather(*pieces)
    return served_model.cut_masks(served_model.join_rows(parts))

  async def _answer_in_turn(self, signature, inputs) -> Arrays:
    """Returns the outputs of a piece; first come, first served."""
    num_rows = len(next(iter(inputs.values())))
    try:
      async with self._turn:
        while self._rows_inside + num_rows > self._capacity:
          self._rows_have_left.clear()
          await self._rows_have_left.wait()
        self._rows_inside += num_rows
    finally:
      self._rows_waiting -= num_rows
    loop = asyncio.get_running_loop()
    # What computes is not cancelled, and is inside until it has ended.
    computing = self._threads.submit(self._answer, signature, inputs)
    computing.add_done_callback(
      lambda _: loop.call_soon_threadsafe(self._leave, num_rows)
    )
    return await asyncio.wrap_future(computing)

  def _leave(self, num_rows):
    self._rows_inside -= num_rows
    self._rows_have_left.set()

  def _answer(self, signature, inputs) -> Arrays:
    num_rows = len(next(iter(inputs.values())))
    try:
      outputs = self._model.run(self._batched(signature, inputs), inputs)
    except status.RequestError:
      outputs = self._model.predict(signature, inputs)
    for name, value in outputs.items():
      if not value.ndim or len(value) != num_rows:
        raise status.RequestError(
          f'Output {name!r} of the model must have a row for each of '
          f'{num_rows} inputs. Received: shape {list(value.shape)}',
          500,
        )
    return outputs

  def _batched(self, signature, inputs):
    """Returns the function whose calls with rows of these shapes are joined."""
    shapes = {name: inputs[name].shape[1:] for name in sorted(inputs)}
    key = f'{signature} {shapes}'
    with self._lock:
      if key not in self._functions:
        self._functions[key] = self._make(signature, shapes, key)
      return self._functions[key]

  def _make(self, signature, shapes, key):
    function = self._model.function(signature)
    specs = function.structured_input_signature[1]
    outputs = sorted(function.structured_outputs)

    @tf.function(autograph=False)
    def compute(*columns):
      results = function(**dict(zip(shapes, columns, strict=True)))
      return [results[name] for name in outputs]

    # Of any shape: what does not fit fails in the model, as alone.
    columns = {
      name: tf.TensorSpec(specs[name].shape, specs[name].dtype, name)
      for name in shapes
    }
    computed = compute.get_concrete_function(*columns.values())
    settings = self._settings
    batch = settings.max_batch_size

    @tf.function(autograph=False)
    def batched(**inputs):
      results = tf.raw_ops.BatchFunction(
        in_tensors=[inputs[name] for name in shapes],
        captured_tensors=computed.captured_inputs,
        f=computed,
        Tout=[output.dtype for output in computed.outputs],
        num_batch_threads=1,
        max_batch_size=batch,
        batch_timeout_micros=round(1e6 * settings.timeout_seconds),
        max_enqueued_batches=self._capacity,
        shared_name=self._name,
        batching_queue=key,
      )
      return dict(zip(outputs, results, strict=True))

    return batched.get_concrete_function(**columns)

  async def close(self):
    """Lets what is being computed end, and stops."""
    await asyncio.to_thread(self._threads.shutdown)
