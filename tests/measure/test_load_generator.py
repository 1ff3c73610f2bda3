"""The load generator: what it sends, and how it takes a rate."""

import http.server
import threading

import pytest

from tools.measure import load_generator


def test_the_rate_counts_whole_bursts_between_two_pauses():
  # Batches of 8 answers, a second apart; the first and the last are cut off.
  bursts = [(0.0, 3), (1.0, 8), (2.0, 8), (3.0, 8), (4.0, 8), (4.3, 5)]
  answers = [
    (start + 0.001 * n, 1) for start, size in bursts for n in range(size)
  ]
  rate = load_generator.steady_rate(answers, margin=10)
  assert rate == pytest.approx(8.0, rel=0.01)


def test_instances_are_counted_not_requests():
  answers = [(float(second), 4) for second in range(10)]
  assert load_generator.steady_rate(answers, margin=2) == pytest.approx(4.0)


def test_too_few_answers_give_no_rate():
  assert load_generator.steady_rate([(0.0, 1), (1.0, 1)], margin=1) == 0.0


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers every second body with an error; remembers all."""

  protocol_version = 'HTTP/1.1'
  bodies: list = []

  def do_POST(self):
    body = self.rfile.read(int(self.headers['Content-Length']))
    self.bodies.append(body)
    self.send_response(200 if body == b'good' else 400)
    self.send_header('Content-Length', '2')
    self.end_headers()
    self.wfile.write(b'{}')

  def log_message(self, *arguments):
    pass


def test_every_body_is_sent_and_failures_are_counted():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    result = load_generator.run_load(
      f'http://127.0.0.1:{server.server_port}/v1/models/m:predict',
      [b'good', b'bad'],
      num_clients=2,
      seconds=0.3,
    )
  finally:
    server.shutdown()
    server.server_close()
  assert set(_Handler.bodies) == {b'good', b'bad'}
  assert result['num_requests'] == _Handler.bodies.count(b'good') > 2
  assert result['num_failures'] == _Handler.bodies.count(b'bad')
  assert result['first_failure'].startswith('400: ')
  assert result['instances_per_second'] > 0
  assert 0 < result['median_seconds'] <= result['p95_seconds']
