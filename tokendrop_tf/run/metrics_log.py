"""The history of a run for programs: `metrics.jsonl` and `evaluations.jsonl`.

One line of JSON per train loop (`kind` 'train') and per validation (`kind`
'validation'); a run that only evaluates writes `evaluations.jsonl`. Fields:

- `step`;
- `seconds` since the run began, and `train_seconds` of them in train steps,
  both over all resumptions;
- `tokens` read so far;
- of a loop `seconds_per_step`, `tokens_per_second`, `includes_compilation`; of
  a validation `validation_seconds`;
- every metric by its name.
"""

import json
import time

import orbit
import tensorflow as tf

from tokendrop_tf import files

METRICS_FILE = 'metrics.jsonl'
EVALUATIONS_FILE = 'evaluations.jsonl'


class MetricsLog:
  """Lines of JSON whose clock continues where an earlier run left it.

  Args:
    path: the file.
    is_chief: whether this process writes.
  """

  def __init__(self, path, is_chief=True):
    self._path = path if is_chief else None
    self._start = time.monotonic()

  def begin(self, step):
    """Removes lines later than `step`; returns the train seconds until then."""
    if self._path is None or not tf.io.gfile.exists(self._path):
      return 0.0
    records = [r for r in read_metrics(self._path) if r['step'] <= step]
    files.write_whole_file(
      self._path, ''.join(json.dumps(record) + '\n' for record in records)
    )
    if not records:
      return 0.0
    self._start = time.monotonic() - records[-1]['seconds']
    return records[-1]['train_seconds']

  def has(self, kind, step):
    """Returns whether there is a line of this kind and step."""
    return self._path is not None and any(
      (record['kind'], record['step']) == (kind, step)
      for record in read_metrics(self._path)
    )

  def append(self, kind, step, output, **more):
    """Adds a line.

    Args:
      kind: 'train' or 'validation'.
      step: the global step.
      output: dict of metrics, tensors or numbers.
      **more: further fields.
    """
    if self._path is None:
      return
    record = {
      'kind': kind,
      'step': step,
      'seconds': round(time.monotonic() - self._start, 3),
    }
    for name, value in {**more, **output}.items():
      value = number(value)
      record[name] = round(value, 6) if name.endswith('seconds') else value
    with tf.io.gfile.GFile(self._path, 'a') as file:
      file.write(json.dumps(record) + '\n')


def read_metrics(path):
  """Returns the records of a `metrics.jsonl`, list of dicts; [] without one.

  A last line that was cut off is omitted.
  """
  if not tf.io.gfile.exists(path):
    return []
  records = []
  for line in files.read_bytes(path).splitlines():
    try:
      records.append(json.loads(line))
    except ValueError:
      break
  return records


def number(value):
  """Returns a metric, per replica or not, as a Python value."""
  if isinstance(value, (bool, int, float, str)):
    return value
  return float(orbit.utils.get_value(value))
