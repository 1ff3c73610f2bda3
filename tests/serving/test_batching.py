"""Batches of concurrent requests: together, apart, and full."""

import asyncio
import threading

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.serving import batching, served_model, status


def outputs_of(x):
  """A model that doubles its input and refuses negative ones."""
  if (x < 0).any():
    raise ValueError('negative')
  return 2 * x


class Recorder(served_model.Signatures):
  """A model of one function of `x`, which remembers the batches it saw."""

  def __init__(self, function=outputs_of):
    self.batches = []
    self.may_run = threading.Event()
    self.may_run.set()
    self.runs = threading.Event()
    self._function = function
    super().__init__(
      'recorder',
      {
        name: self._signature(name, shape)
        for name, shape in (
          ('serving_default', [None]),
          ('bad', [None]),
          ('ids', [None, None]),
        )
      },
    )

  def _signature(self, name, shape):
    def run(x):
      self.runs.set()
      self.may_run.wait(20)
      self.batches.append((name, x.reshape(len(x), -1)[:, 0].tolist()))
      return self._function(x).astype(np.int32)

    def call(*, x):
      y = tf.numpy_function(run, [x], tf.int32)
      return {'y': y}

    spec = tf.TensorSpec(shape, tf.int32, 'x')
    return tf.function(call, autograph=False).get_concrete_function(x=spec)

  def sizes(self):
    return [len(values) for _, values in self.batches]


def inputs_of(*values):
  return {'x': np.array(values, np.int32)}


def run_all(recorder, requests, **settings):
  """Submits requests at once; returns outputs or errors, in order."""

  async def run():
    settings.setdefault('timeout_seconds', 0.5)
    batcher = batching.Batcher(recorder, batching.BatchingSettings(**settings))
    tasks = [
      asyncio.create_task(batcher.submit(signature, inputs))
      for signature, inputs in requests
    ]
    await asyncio.sleep(0.5)
    recorder.may_run.set()
    results = await asyncio.wait_for(
      asyncio.gather(*tasks, return_exceptions=True), 30
    )
    await batcher.close()
    return [
      result['y'].tolist() if isinstance(result, dict) else result
      for result in results
    ]

  return asyncio.run(run())


def test_requests_that_come_together_share_a_batch():
  recorder = Recorder()
  requests = [('', inputs_of(n, n + 10)) for n in range(4)]
  assert run_all(recorder, requests) == [[2 * n, 2 * n + 20] for n in range(4)]
  assert recorder.sizes() == [8]


def test_a_batch_is_no_larger_than_allowed():
  recorder = Recorder()
  requests = [('', inputs_of(*range(3))) for _ in range(5)]
  assert run_all(recorder, requests, max_batch_size=7) == [[0, 2, 4]] * 5
  assert sum(recorder.sizes()) == 15
  assert max(recorder.sizes()) <= 7


def test_a_request_larger_than_a_batch_comes_back_whole_and_in_order():
  recorder = Recorder()
  [result] = run_all(recorder, [('', inputs_of(*range(10)))], max_batch_size=4)
  assert result == [2 * n for n in range(10)]
  assert max(recorder.sizes()) <= 4


def test_a_full_batch_does_not_wait():
  recorder = Recorder()
  requests = [('', inputs_of(1)), ('', inputs_of(2))]
  results = run_all(recorder, requests, max_batch_size=2, timeout_seconds=1e6)
  assert results == [[2], [4]]


def test_signatures_and_shapes_are_not_mixed():
  recorder = Recorder()
  requests = [
    ('ids', inputs_of([1, 1])),
    ('', inputs_of(2)),
    ('ids', inputs_of([3, 3, 3])),
    ('ids', inputs_of([4, 4])),
  ]
  assert run_all(recorder, requests) == [
    [[2, 2]],
    [4],
    [[6, 6, 6]],
    [[8, 8]],
  ]
  seen = sorted((name, sorted(rows)) for name, rows in recorder.batches)
  assert seen == [('ids', [1, 4]), ('ids', [3]), ('serving_default', [2])]


def test_a_request_that_fails_fails_alone():
  results = run_all(Recorder(), [('', inputs_of(n)) for n in (1, -1, 3)])
  assert results[0] == [2]
  assert isinstance(results[1], status.RequestError)
  assert 'negative' in str(results[1])
  assert results[2] == [6]


@pytest.mark.parametrize('shape', [(), (2, 5)])
def test_a_malformed_output_is_an_error_of_the_model(shape):
  [error] = run_all(Recorder(lambda x: np.zeros(shape)), [('', inputs_of(1))])
  assert error.http_status == 500
  assert "'y' of the model must have a row for each of 1 in" in str(error)
  assert str(error).endswith(f'Received: shape {list(shape)}')


def test_requests_beyond_the_queue_are_refused():
  recorder = Recorder()
  recorder.may_run.clear()
  requests = [('', inputs_of(n, n)) for n in range(9)]
  results = run_all(
    recorder, requests, max_batch_size=2, max_queued_rows=4, timeout_seconds=0
  )
  refused = [error for error in results if isinstance(error, Exception)]
  # One batch is computed, one is the next, and two wait.
  assert len(refused) == 5
  assert {error.http_status for error in refused} == {503}
  assert all('queue' in str(error) for error in refused)
  for n, result in enumerate(results):
    assert isinstance(result, Exception) or result == [2 * n, 2 * n]


def test_a_request_that_is_given_up_while_it_waits_is_not_computed():
  recorder = Recorder()
  recorder.may_run.clear()

  async def run():
    batcher = batching.Batcher(
      recorder, batching.BatchingSettings(max_batch_size=2, timeout_seconds=0)
    )
    tasks = []
    for n in range(6):
      tasks.append(asyncio.create_task(batcher.submit('', inputs_of(n, n))))
      if n == 0:
        await asyncio.to_thread(recorder.runs.wait, 20)
    await asyncio.sleep(0.5)
    # The first computes and the second is the next batch; three give up.
    for task in tasks[2:5]:
      task.cancel()
    await asyncio.sleep(0)
    recorder.may_run.set()
    last = await tasks[5]
    await batcher.close()
    return last

  assert asyncio.run(run())['y'].tolist() == [10, 10]
  assert recorder.batches == [('serving_default', [n, n]) for n in (0, 1, 5)]


def test_slots_of_other_requests_masks_are_cut():
  def call(*, x):
    is_used = tf.sequence_mask(x)
    return {
      'num_masks': x,
      'tokens': tf.where(is_used, 't', ''),
      'scores': tf.cast(is_used, tf.float32),
    }

  spec = tf.TensorSpec([None], tf.int32, 'x')
  function = tf.function(call).get_concrete_function(x=spec)
  model = served_model.Signatures('fill', {'serving_default': function})

  async def run():
    batcher = batching.Batcher(
      model, batching.BatchingSettings(max_batch_size=2, timeout_seconds=0.5)
    )
    narrow, wide = await asyncio.gather(
      batcher.submit('', inputs_of(1)), batcher.submit('', inputs_of(3))
    )
    # Pieces of one request: as wide as the widest.
    joined = await batcher.submit('', inputs_of(1, 1, 2))
    await batcher.close()
    return narrow, wide, joined

  narrow, wide, joined = asyncio.run(run())
  assert narrow['tokens'].tolist() == [[b't']]
  assert wide['scores'].shape == (1, 3)
  assert joined['tokens'].tolist() == [[b't', b''], [b't', b''], [b't', b't']]
  assert joined['scores'].tolist() == [[1, 0], [1, 0], [1, 1]]
