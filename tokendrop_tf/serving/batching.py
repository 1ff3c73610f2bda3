"""Concurrent requests, answered in common batches."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Hashable
from concurrent import futures

import numpy as np

from tokendrop_tf.serving import served_model, status

Arrays = dict[str, np.ndarray]
Run = Callable[[str, Arrays], Arrays]

# What TF Serving answers when its queue is full, as an UNAVAILABLE error.
_QUEUE_FULL = (
  'The batch scheduling queue to which this task was submitted is full'
)


@dataclasses.dataclass(frozen=True)
class BatchingSettings:
  """How requests are put together.

  Attributes:
    max_batch_size: rows that the model sees at once.
    timeout_seconds: how long an incomplete batch waits for more rows while the
      model is idle.
    max_queued_rows: rows that wait; a request beyond is refused.
  """

  max_batch_size: int = 32
  timeout_seconds: float = 0.002
  max_queued_rows: int = 1024


@dataclasses.dataclass(eq=False)
class _Task:
  signature: str
  key: Hashable
  inputs: Arrays
  num_rows: int
  future: asyncio.Future


class Batcher:
  """Answers concurrent requests of one model in batches, one after another.

  While the model computes, requests gather; when it is done, the oldest ones
  that fit together (the same signature, rows of the same shapes) become the
  next batch. A request that makes a batch fail fails alone: the others are run
  again without it.

  Args:
    run: function of a signature and its inputs to the outputs, called in a
      thread.
    settings: limits.

  Example:
    batcher = Batcher(model.predict, BatchingSettings())
    outputs = await batcher.submit('', {'text': np.array([b'a'], object)})
    await batcher.close()
  """

  def __init__(self, run: Run, settings: BatchingSettings):
    self._run = run
    self._settings = settings
    self._waiting: collections.deque[_Task] = collections.deque()
    self._num_waiting_rows = 0
    self._arrived = asyncio.Event()
    self._thread = futures.ThreadPoolExecutor(1, 'batches')
    self._loop_task: asyncio.Task | None = None

  async def submit(self, signature: str, inputs: Arrays) -> Arrays:
    """Returns the outputs for `inputs`, whatever else is in their batches.

    Raises:
      RequestError: 503 if too many rows wait, or what `run` raises.
    """
    num_rows = len(next(iter(inputs.values())))
    # An empty queue takes any request, so that none is refused for ever.
    waiting = self._num_waiting_rows
    if waiting and waiting + num_rows > self._settings.max_queued_rows:
      raise status.RequestError(_QUEUE_FULL, 503)
    if self._loop_task is None or self._loop_task.done():
      self._loop_task = asyncio.create_task(self._run_batches())
    step = self._settings.max_batch_size
    tasks = [
      self._enqueue(signature, {n: a[i : i + step] for n, a in inputs.items()})
      for i in range(0, num_rows, step)
    ]
    try:
      parts = await asyncio.gather(*(task.future for task in tasks))
    finally:
      for task in tasks:
        task.future.cancel()
    return served_model.cut_masks(served_model.join_rows(parts))

  def _enqueue(self, signature, inputs) -> _Task:
    shapes = tuple((name, inputs[name].shape[1:]) for name in sorted(inputs))
    num_rows = len(next(iter(inputs.values())))
    future = asyncio.get_running_loop().create_future()
    task = _Task(signature, (signature, shapes), inputs, num_rows, future)
    self._waiting.append(task)
    self._num_waiting_rows += num_rows
    self._arrived.set()
    return task

  async def _run_batches(self):
    while True:
      await self._wait_for_rows()
      batch = self._take_batch()
      if batch:
        await self._answer(batch)

  async def _wait_for_rows(self):
    """Returns when there is a full batch, or its time-out is over."""
    loop = asyncio.get_running_loop()
    deadline = None
    while self._num_waiting_rows < self._settings.max_batch_size:
      self._arrived.clear()
      if self._waiting and deadline is None:
        deadline = loop.time() + self._settings.timeout_seconds
      remaining = None if deadline is None else deadline - loop.time()
      if remaining is not None and remaining <= 0:
        return
      try:
        await asyncio.wait_for(self._arrived.wait(), remaining)
      except (asyncio.TimeoutError, TimeoutError):
        return

  def _take_batch(self) -> list[_Task]:
    """Takes the oldest task, and those after it that fit into its batch."""
    batch, left, room = [], [], self._settings.max_batch_size
    for task in self._waiting:
      if task.future.done():  # nobody waits for it any more
        self._num_waiting_rows -= task.num_rows
      elif task.num_rows <= room and (not batch or task.key == batch[0].key):
        batch.append(task)
        room -= task.num_rows
        self._num_waiting_rows -= task.num_rows
      else:
        left.append(task)
    self._waiting = collections.deque(left)
    return batch

  async def _answer(self, batch: list[_Task]):
    # Nothing that a model does may end the loop: all requests wait for it.
    try:
      parts = await self._compute(batch)
    except Exception as error:
      await self._answer_failed(batch, error)
      return
    for task, outputs in zip(batch, parts):
      _resolve(task, outputs)

  async def _compute(self, batch) -> list[Arrays]:
    """Returns the outputs of every task."""
    inputs = {
      name: np.concatenate([task.inputs[name] for task in batch])
      for name in batch[0].inputs
    }
    outputs = await asyncio.get_running_loop().run_in_executor(
      self._thread, self._run, batch[0].signature, inputs
    )
    ends = np.cumsum([task.num_rows for task in batch])
    _check_rows(outputs, ends[-1])
    return [
      {n: value[end - task.num_rows : end] for n, value in outputs.items()}
      for task, end in zip(batch, ends)
    ]

  async def _answer_failed(self, batch, error):
    if len(batch) > 1:
      for task in batch:
        await self._answer([task])
    elif not batch[0].future.done():
      batch[0].future.set_exception(error)

  async def close(self):
    """Lets the batch in progress end, and stops."""
    if self._loop_task is not None:
      self._loop_task.cancel()
      await asyncio.gather(self._loop_task, return_exceptions=True)
    self._thread.shutdown(wait=True)


def _check_rows(outputs, num_rows):
  for name, value in outputs.items():
    if not value.ndim or len(value) != num_rows:
      raise status.RequestError(
        f'Output {name!r} of the model must have a row for each of {num_rows} '
        f'inputs. Received: shape {list(value.shape)}',
        500,
      )


def _resolve(task, outputs):
  if not task.future.done():
    task.future.set_result(outputs)
