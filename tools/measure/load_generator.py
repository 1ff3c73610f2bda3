"""Clients that keep a server busy, and the rate at which it answers them.

  python -m tools.measure.load_generator \\
      --url=http://127.0.0.1:8501/v1/models/embeddings:predict \\
      --bodies=bodies.json --num_clients=64 --seconds=60

Every client sends its next request when the last one is answered. A process of
its own, without TensorFlow, so that it takes little from the server's.
"""

import http.client
import itertools
import json
import statistics
import threading
import time
import urllib.parse
from collections.abc import Sequence

from tokendrop_tf import command_line, errors

# What a client waits for one answer at most.
_TIMEOUT_SECONDS = 600


class _Client(threading.Thread):
  """Sends requests over one connection until `ends` has come."""

  def __init__(self, url, bodies, first, ends, instances):
    super().__init__(daemon=True)
    self._url = urllib.parse.urlsplit(url)
    self._bodies = itertools.islice(itertools.cycle(bodies), first, None)
    self._ends = ends
    self._instances = instances
    self.answers: list[tuple[float, float, int]] = []
    self.failures: list[str] = []

  def run(self):
    connection = http.client.HTTPConnection(
      self._url.netloc, timeout=_TIMEOUT_SECONDS
    )
    try:
      while not self._ends.is_set():
        self._ask(connection, next(self._bodies))
    except OSError as error:
      self.failures.append(str(error))
    finally:
      connection.close()

  def _ask(self, connection, body):
    start = time.perf_counter()
    connection.request('POST', self._url.path, body)
    response = connection.getresponse()
    text = response.read()
    end = time.perf_counter()
    if response.status == 200:
      self.answers.append((end, end - start, self._instances))
    else:
      self.failures.append(f'{response.status}: {text[:200]!r}')


def run_load(
  url: str,
  bodies: Sequence[bytes],
  num_clients: int,
  seconds: float,
  instances_per_request: int = 1,
) -> dict:
  """Loads a server, and returns what it sustained.

  Args:
    url: of a model's :predict.
    bodies: requests, sent in turn.
    num_clients: requests that are on their way at any time.
    seconds: how long; the rate is taken without its beginning and end.
    instances_per_request: rows of each body.

  Returns:
    `instances_per_second`, `num_requests`, `num_failures`, `first_failure`, and
    `median_seconds` and `p95_seconds` of a request.

  Example:
    run_load('http://127.0.0.1:8501/v1/models/embeddings:predict',
             [b'{"instances": ["a text"]}'], num_clients=64, seconds=30)
  """
  ends = threading.Event()
  clients = [
    _Client(url, bodies, index, ends, instances_per_request)
    for index in range(num_clients)
  ]
  for client in clients:
    client.start()
  time.sleep(seconds)
  ends.set()
  for client in clients:
    client.join()
  answers = sorted(answer for client in clients for answer in client.answers)
  failures = [failure for client in clients for failure in client.failures]
  return _summarize(answers, failures, num_clients)


def _summarize(answers, failures, num_clients) -> dict:
  latencies = [latency for _, latency, _ in answers]
  cuts = (
    statistics.quantiles(latencies, n=20) if len(latencies) > 1 else [0.0] * 19
  )
  return {
    'instances_per_second': steady_rate(
      [(end, count) for end, _, count in answers], num_clients
    ),
    'num_requests': len(answers),
    'num_failures': len(failures),
    'first_failure': failures[0] if failures else '',
    'median_seconds': cuts[9],
    'p95_seconds': cuts[18],
  }


def steady_rate(answers: Sequence[tuple[float, int]], margin: int) -> float:
  """Returns instances a second between two pauses of the answers.

  Answers come in bursts, one a batch. Counting from the end of a burst to the
  end of another counts whole batches only.

  Args:
    answers: when each came, in seconds, ascending, and its instances.
    margin: how many answers at either end to look for the longest pause in;
      what lies outside of the two pauses is left out.

  Returns:
    0.0 where there are too few answers.

  Example:
    steady_rate([(0.0, 1), (1.0, 1), (2.0, 1), (3.0, 1)], margin=1)  # 1.0
  """
  if len(answers) < 2 * margin + 2:
    return 0.0
  times = [end for end, _ in answers]
  pauses = [after - before for before, after in itertools.pairwise(times)]
  first = max(range(margin), key=pauses.__getitem__)
  last = max(range(len(pauses) - margin, len(pauses)), key=pauses.__getitem__)
  count = sum(instances for _, instances in answers[first + 1 : last + 1])
  return count / (times[last] - times[first])


def main(arguments: list[str]) -> None:
  """Prints one JSON object."""
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument('--url', required=True, help="A model's :predict.")
  parser.add_argument(
    '--bodies', required=True, help='File with a JSON list of requests.'
  )
  parser.add_argument('--num_clients', type=int, default=64)
  parser.add_argument('--seconds', type=float, default=60)
  flags = parser.parse_args(arguments)
  with open(flags.bodies, encoding='utf-8') as file:
    requests = json.load(file)
  if not requests:
    raise errors.DataError('--bodies must hold a request. Received: none.')
  result = run_load(
    flags.url,
    [json.dumps(request).encode('utf-8') for request in requests],
    flags.num_clients,
    flags.seconds,
    len(requests[0]['instances']),
  )
  print(json.dumps(result))


if __name__ == '__main__':
  command_line.run_main(main)
