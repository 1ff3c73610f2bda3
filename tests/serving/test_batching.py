"""Batches of concurrent requests: together, apart, and full."""

import asyncio
import threading

import numpy as np
import pytest

from tokendrop_tf.serving import batching, status


class Recorder:
  """A model that doubles its input, and remembers the batches it saw."""

  def __init__(self):
    self.batches = []
    self.may_run = threading.Event()
    self.may_run.set()

  def __call__(self, signature, inputs):
    self.may_run.wait()
    values = inputs['x']
    self.batches.append((signature, values.reshape(len(values), -1)[:, 0]))
    if (values < 0).any():
      raise status.RequestError('negative')
    return {'y': 2 * values}

  def sizes(self):
    return [len(values) for _, values in self.batches]


def inputs_of(*values):
  return {'x': np.array(values, np.int32)}


def run_all(recorder, requests, **settings):
  """Submits requests at once; returns outputs or errors, in order."""

  async def run():
    settings.setdefault('timeout_seconds', 0.05)
    batcher = batching.Batcher(recorder, batching.BatchingSettings(**settings))
    tasks = [
      asyncio.create_task(batcher.submit(signature, inputs))
      for signature, inputs in requests
    ]
    await asyncio.sleep(0.02)
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
  assert recorder.sizes() == [6, 6, 3]


def test_a_request_larger_than_a_batch_comes_back_whole():
  recorder = Recorder()
  [result] = run_all(recorder, [('', inputs_of(*range(10)))], max_batch_size=4)
  assert result == [2 * n for n in range(10)]
  assert recorder.sizes() == [4, 4, 2]


def test_a_full_batch_does_not_wait():
  recorder = Recorder()
  requests = [('', inputs_of(1)), ('', inputs_of(2))]
  results = run_all(recorder, requests, max_batch_size=2, timeout_seconds=1e6)
  assert results == [[2], [4]]


def test_signatures_and_shapes_are_not_mixed():
  recorder = Recorder()
  requests = [
    ('', inputs_of([1, 1])),
    ('ids', inputs_of([2, 2])),
    ('', inputs_of([3])),
    ('', inputs_of([4, 4])),
  ]
  assert run_all(recorder, requests) == [[[2, 2]], [[4, 4]], [[6]], [[8, 8]]]
  seen = [(signature, v.tolist()) for signature, v in recorder.batches]
  assert seen == [('', [1, 4]), ('ids', [2]), ('', [3])]


def test_a_request_that_fails_fails_alone():
  results = run_all(Recorder(), [('', inputs_of(n)) for n in (1, -1, 3)])
  assert results[0] == [2]
  assert str(results[1]) == 'negative'
  assert results[2] == [6]


@pytest.mark.parametrize(
  ('malformed', 'shape'),
  [(np.float32(3.0), '[]'), (np.zeros([2, 5]), '[2, 5]')],
)
def test_a_malformed_output_fails_alone_and_the_next_is_answered(
  malformed, shape
):
  class Malformed(Recorder):
    def __call__(self, signature, inputs):
      outputs = super().__call__(signature, inputs)
      return {'y': malformed} if signature == 'bad' else outputs

  requests = [('bad', inputs_of(1)), ('', inputs_of(2)), ('', inputs_of(3))]
  bad, *good = run_all(Malformed(), requests)
  assert bad.http_status == 500
  assert "Output 'y' of the model must have a row for each of 1 in" in str(bad)
  assert str(bad).endswith(f'Received: shape {shape}')
  assert good == [[4], [6]]


def test_a_batch_that_cannot_be_put_together_fails_alone(monkeypatch):
  def no_memory(arrays):
    raise MemoryError('no room')

  async def run():
    batcher = batching.Batcher(Recorder(), batching.BatchingSettings())
    with monkeypatch.context() as patch:
      patch.setattr(batching.np, 'concatenate', no_memory)
      with pytest.raises(MemoryError, match='no room'):
        await asyncio.wait_for(batcher.submit('', inputs_of(1)), 5)
    answer = await asyncio.wait_for(batcher.submit('', inputs_of(2)), 5)
    await batcher.close()
    return answer['y'].tolist()

  assert asyncio.run(run()) == [4]


def test_a_loop_that_has_ended_is_begun_anew():
  async def run():
    batcher = batching.Batcher(Recorder(), batching.BatchingSettings())
    await batcher.submit('', inputs_of(1))
    batcher._loop_task.cancel()
    await asyncio.sleep(0.01)
    answer = await asyncio.wait_for(batcher.submit('', inputs_of(2)), 5)
    await batcher.close()
    return answer['y'].tolist()

  assert asyncio.run(run()) == [4]


def test_requests_beyond_the_queue_are_refused():
  recorder = Recorder()
  recorder.may_run.clear()
  requests = [('', inputs_of(n, n)) for n in range(4)]
  results = run_all(
    recorder, requests, max_batch_size=2, max_queued_rows=5, timeout_seconds=0
  )
  accepted, refused = results[:2], results[2:]
  assert accepted == [[0, 0], [2, 2]]
  assert [error.http_status for error in refused] == [503, 503]
  assert all('queue' in str(error) for error in refused)


def test_a_request_larger_than_the_queue_is_taken_when_it_is_empty():
  [result] = run_all(Recorder(), [('', inputs_of(1, 2, 3))], max_queued_rows=2)
  assert result == [2, 4, 6]


def test_a_client_that_has_gone_costs_no_batch():
  recorder = Recorder()
  recorder.may_run.clear()

  async def run():
    batcher = batching.Batcher(
      recorder, batching.BatchingSettings(max_batch_size=1, timeout_seconds=0)
    )
    first = asyncio.create_task(batcher.submit('', inputs_of(1)))
    await asyncio.sleep(0.02)  # in the model
    gone = asyncio.create_task(batcher.submit('', inputs_of(2)))
    await asyncio.sleep(0.02)
    gone.cancel()
    last = asyncio.create_task(batcher.submit('', inputs_of(3)))
    recorder.may_run.set()
    assert (await first)['y'].tolist() == [2]
    assert (await last)['y'].tolist() == [6]
    with pytest.raises(asyncio.CancelledError):
      await gone
    await batcher.close()

  asyncio.run(run())
  assert [v.tolist() for _, v in recorder.batches] == [[1], [3]]


def test_slots_of_other_requests_masks_are_cut():
  def fill(signature, inputs):
    num_masks = inputs['x']
    widest = num_masks.max()
    is_used = np.arange(widest) < num_masks[:, np.newaxis]
    tokens = np.where(is_used, b't', b'').astype(object)
    return {'num_masks': num_masks, 'tokens': tokens, 'scores': is_used * 1.0}

  async def run():
    batcher = batching.Batcher(
      fill, batching.BatchingSettings(max_batch_size=2, timeout_seconds=0.05)
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
