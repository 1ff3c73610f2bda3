"""What a person sees of a run."""

import json
import os
import time

import orbit


class Report:
  """Prints progress and appends it to `metrics.jsonl`."""

  def __init__(self, params, model_dir):
    self._params = params
    self._path = os.path.join(model_dir, 'metrics.jsonl')
    self._start = time.time()

  def train_action(self, trainer):
    return lambda output: self._record('train', trainer, output)

  def eval_action(self, trainer):
    return lambda output: self._record('validation', trainer, output)

  def _record(self, kind, trainer, output):
    record = {
        'kind': kind, 'step': int(trainer.global_step.numpy()),
        'seconds': round(time.time() - self._start, 3)}
    for name, value in output.items():
      record[name] = float(orbit.utils.get_value(value))
    with open(self._path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(record) + '\n')
    print(record, flush=True)
