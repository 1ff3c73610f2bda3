"""The HTTP interface over a real socket, with real models behind it."""

import concurrent.futures
import contextlib
import gzip
import http.client
import json
import re
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tiny_exports
import uvicorn

from tokendrop_tf.serving import application, batching, served_model

LIMITS = application.Limits(max_request_bytes=4096, max_instances=40)
EMBEDDINGS = '/v1/models/embeddings'
FILL_MASK = '/v1/models/fill_mask'


@contextlib.contextmanager
def running(models, limits=LIMITS):
  """Serves on a free port in a thread; gives the port."""
  app = application.build_application(
    models, limits, batching.BatchingSettings(max_batch_size=8)
  )
  server = uvicorn.Server(uvicorn.Config(app, log_level='critical'))
  with socket.create_server(('127.0.0.1', 0)) as listener:
    thread = threading.Thread(
      target=server.run, kwargs={'sockets': [listener]}, daemon=True
    )
    thread.start()
    while not server.started:
      time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope='module')
def models(exports):
  folders = served_model.find_models(str(exports.path('pretraining')))
  return {folder.name: served_model.ServedModel(folder) for folder in folders}


@pytest.fixture(scope='module')
def port(models):
  with running(list(models.values())) as port:
    yield port


def send(port, method, path, body=None, headers=None):
  """Returns the status, and what the JSON body holds."""
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
  try:
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    assert response.headers['Content-Type'] == 'application/json'
    return response.status, json.loads(response.read())
  finally:
    connection.close()


def predict(port, path, document):
  return send(port, 'POST', f'{path}:predict', json.dumps(document))


def test_rows_and_columns_give_what_the_model_gives(port, models):
  texts = ['the river', 'bank [MASK]']
  expected = models['embeddings'].predict(
    '', {'text': np.array([text.encode() for text in texts], object)}
  )
  code, answer = predict(port, EMBEDDINGS, {'inputs': texts})
  assert code == 200
  assert answer['outputs'].keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(answer['outputs'][name], value, atol=1e-6)
  for instances in (texts, [{'text': text} for text in texts]):
    code, rows = predict(port, EMBEDDINGS, {'instances': instances})
    assert code == 200
    for name in expected:
      column = [row[name] for row in rows['predictions']]
      np.testing.assert_allclose(column, answer['outputs'][name], atol=1e-6)


def test_the_ids_signature_is_named_in_the_request(port):
  _, from_text = predict(port, EMBEDDINGS, {'instances': ['river']})
  vocabulary = tiny_exports.make_vocabulary()
  ids = vocabulary.ids_of(['[CLS]', 'river', '[SEP]'])
  row = {
    'input_word_ids': ids,
    'input_mask': [1, 1, 1],
    'input_type_ids': [0, 0, 0],
  }
  code, from_ids = predict(
    port, EMBEDDINGS, {'signature_name': 'ids', 'instances': [row]}
  )
  assert code == 200
  for name, value in from_text['predictions'][0].items():
    np.testing.assert_allclose(
      from_ids['predictions'][0][name], value, atol=1e-5
    )


def test_masks_are_filled_in(port):
  code, answer = predict(port, FILL_MASK, {'instances': ['a [MASK] b [MASK]']})
  assert code == 200
  [row] = answer['predictions']
  assert row['num_masks'] == 2
  assert [len(tokens) for tokens in row['tokens']] == [10, 10]
  assert row['scores'][0] == sorted(row['scores'][0], reverse=True)


def test_concurrent_clients_each_get_their_own_answer(port):
  texts = [
    f'{"river " * (n % 5)}[MASK]{" bank [MASK]" * (n % 3)}' for n in range(24)
  ]
  alone = [predict(port, FILL_MASK, {'instances': [text]}) for text in texts]
  with concurrent.futures.ThreadPoolExecutor(24) as pool:
    together = list(
      pool.map(lambda t: predict(port, FILL_MASK, {'instances': [t]}), texts)
    )
  for (_, one), (code, other) in zip(alone, together):
    assert code == 200
    [expected], [found] = one['predictions'], other['predictions']
    assert found['num_masks'] == expected['num_masks']
    assert len(found['tokens']) == found['num_masks']
    np.testing.assert_allclose(found['scores'], expected['scores'], atol=1e-5)


def test_more_rows_than_a_batch_are_answered_in_order(port):
  texts = [f'{"river " * (n % 7)}' for n in range(20)]
  _, whole = predict(port, EMBEDDINGS, {'inputs': texts})
  for index in (0, 9, 19):
    _, one = predict(port, EMBEDDINGS, {'inputs': texts[index : index + 1]})
    np.testing.assert_allclose(
      whole['outputs']['mean_output'][index],
      one['outputs']['mean_output'][0],
      atol=1e-5,
    )


def test_a_gzipped_body_is_read(port):
  body = json.dumps({'instances': ['river']}).encode()
  headers = {'Content-Encoding': 'gzip'}
  path = f'{EMBEDDINGS}:predict'
  assert send(port, 'POST', path, gzip.compress(body), headers) == send(
    port, 'POST', path, body
  )
  code, answer = send(port, 'POST', path, b'no gzip', headers)
  assert (code, 'uncompress' in answer['error']) == (400, True)
  bomb = gzip.compress(b' ' * 10**6)
  assert len(bomb) < LIMITS.max_request_bytes
  code, answer = send(port, 'POST', path, bomb, headers)
  assert (code, 'larger than the maximum' in answer['error']) == (413, True)


def test_paths_are_read_as_tf_serving_reads_them(port):
  body = json.dumps({'instances': ['river']})
  expected = send(port, 'POST', f'{EMBEDDINGS}:predict', body)
  for path in (
    '/v1/models/embeddings/versions/1:predict',
    '/V1/Models/embeddings/Versions/1:PREDICT',
    '/v1/models/embed%64ings:predict',
  ):
    assert send(port, 'POST', path, body) == expected


def test_status_and_metadata_of_a_model(port):
  available = {
    'model_version_status': [
      {
        'version': '1',
        'state': 'AVAILABLE',
        'status': {'error_code': 'OK', 'error_message': ''},
      }
    ]
  }
  for path in (FILL_MASK, f'{FILL_MASK}/versions/1'):
    assert send(port, 'GET', path) == (200, available)
  code, answer = send(port, 'GET', f'{FILL_MASK}/metadata')
  assert code == 200
  assert answer['model_spec'] == {
    'name': 'fill_mask',
    'signature_name': '',
    'version': '1',
  }
  signatures = answer['metadata']['signature_def']['signature_def']
  text = signatures['serving_default']['inputs']['text']
  assert text['dtype'] == 'DT_STRING'
  assert text['tensor_shape']['dim'] == [{'size': '-1', 'name': ''}]
  assert signatures['ids']['inputs'].keys() == {
    'input_word_ids',
    'input_mask',
    'input_type_ids',
  }
  assert signatures['serving_default']['outputs'].keys() == {
    'tokens',
    'scores',
    'num_masks',
  }
  assert signatures['ids']['method_name'] == 'tensorflow/serving/predict'


def test_the_models_are_listed(port):
  code, answer = send(port, 'GET', '/v1/models')
  assert code == 200
  assert answer == {
    'models': [
      {'name': 'embeddings', 'version': '1'},
      {'name': 'fill_mask', 'version': '1'},
    ]
  }


ROW = json.dumps({'instances': ['river']})


@pytest.mark.parametrize(
  ('method', 'path', 'body', 'code', 'expected'),
  [
    ('GET', '/v1/models/nothing', None, 404, 'fill_mask. Received: nothing'),
    ('GET', f'{FILL_MASK}/versions/7', None, 404, 'fill_mask, version 7'),
    ('GET', '/v1/models/nothing/metadata', None, 404, 'Received: nothing'),
    ('GET', '/v1/something', None, 400, 'Malformed request: GET /v1/something'),
    ('GET', f'{FILL_MASK}:predict', None, 400, 'Malformed request: GET'),
    ('PUT', f'{FILL_MASK}:predict', ROW, 400, 'Malformed request: PUT'),
    ('POST', FILL_MASK, ROW, 400, f'Malformed request: POST {FILL_MASK}'),
    ('POST', f'{FILL_MASK}:predict?x=1', ROW, 400, 'Malformed request: POST'),
    ('GET', '/', None, 404, 'Malformed request: GET /'),
    ('POST', '/v1/models/x:predict', ROW, 404, 'Received: x'),
    ('POST', f'{FILL_MASK}/versions/2:predict', ROW, 404, 'version 2'),
    ('POST', f'{FILL_MASK}/versions/{2**64}:predict', ROW, 400, 'Malformed'),
    ('POST', f'{FILL_MASK}/labels/stable:predict', ROW, 400, 'Malformed'),
    ('POST', f'{FILL_MASK}:classify', '{}', 400, 'Malformed request: POST'),
    ('POST', f'{FILL_MASK}:predict', '{"instances": [', 400, 'must be JSON'),
    (
      'POST',
      f'{FILL_MASK}:predict',
      '{"signature_name": "x", "instances": ["a"]}',
      400,
      'Serving signature name: "x" not found in signature def',
    ),
    (
      'POST',
      f'{FILL_MASK}:predict',
      json.dumps({'instances': ['a'] * 41}),
      400,
      'Task size 41 is larger than maximum input batch size 40',
    ),
    (
      'POST',
      f'{FILL_MASK}:predict',
      'x' * 4097,
      413,
      'Request body is larger than the maximum of 4096 bytes',
    ),
    (
      'POST',
      f'{FILL_MASK}:predict',
      json.dumps(
        {
          'signature_name': 'ids',
          'inputs': {
            'input_word_ids': [[9999]],
            'input_mask': [[1]],
            'input_type_ids': [[0]],
          },
        }
      ),
      400,
      'indices[0] = 9999 is not in [0, ',
    ),
    (
      'POST',
      f'{FILL_MASK}:predict',
      json.dumps(
        {
          'signature_name': 'ids',
          'inputs': {
            'input_word_ids': [[1] * 99],
            'input_mask': [[1] * 99],
            'input_type_ids': [[0] * 99],
          },
        }
      ),
      400,
      '99',
    ),
  ],
)
def test_mistakes_get_an_error_body_and_the_server_stays(
  port, method, path, body, code, expected
):
  found, answer = send(port, method, path, body)
  assert answer.keys() == {'error'}
  assert expected in answer['error']
  assert 'Traceback' not in answer['error']
  assert found == code
  assert send(port, 'GET', FILL_MASK)[0] == 200


def test_a_body_of_unknown_length_is_limited_too(port):
  chunks = (b'x' * 1000 for _ in range(10))
  code, answer = send(port, 'POST', f'{FILL_MASK}:predict', chunks)
  assert code == 413
  assert 'maximum of 4096 bytes' in answer['error']


def test_what_is_no_http_does_not_end_the_server(port):
  for garbage in (b'\x00\x01\x02\r\n\r\n', b'GET\r\n\r\n'):
    with socket.create_connection(('127.0.0.1', port), timeout=20) as client:
      client.sendall(garbage)
      assert re.match(rb'HTTP/1.1 400', client.recv(1000))
  # A client that leaves in the middle of its body.
  with socket.create_connection(('127.0.0.1', port)) as client:
    client.sendall(
      b'POST /v1/models/fill_mask:predict HTTP/1.1\r\nHost: x\r\n'
      b'Content-Length: 1000\r\n\r\n{'
    )
  assert send(port, 'GET', FILL_MASK)[0] == 200


class _Broken(served_model.Signatures):
  """A model with a defect that nobody has foreseen."""

  version = 1

  def input_specs(self, signature):
    raise KeyError('a defect')


def test_a_defect_is_an_internal_error_of_one_request():
  with running([_Broken('broken', {})]) as port:
    code, answer = predict(port, '/v1/models/broken', {'instances': ['a']})
    assert code == 500
    assert answer == {'error': "KeyError: 'a defect'"}
    assert send(port, 'GET', '/v1/models/broken')[0] == 200


class _Slow(served_model.Signatures):
  """A model that computes until it is let go."""

  version = 1

  def __init__(self):
    self.may_end = threading.Event()
    function = tf.function(
      lambda *, text: {
        'score': tf.numpy_function(self._wait, [text], tf.float32)
      },
      autograph=False,
    ).get_concrete_function(text=tf.TensorSpec([None], tf.string, 'text'))
    super().__init__('slow', {'serving_default': function})

  def _wait(self, text):
    self.may_end.wait(20)
    return np.ones(len(text), np.float32)


def test_a_request_that_takes_too_long_is_given_up():
  model = _Slow()
  limits = application.Limits(timeout_seconds=0.2)
  with running([model], limits) as port:
    path = '/v1/models/slow'
    code, answer = predict(port, path, {'instances': ['a']})
    assert code == 504
    assert answer == {'error': 'Timed out waiting for notification'}
    model.may_end.set()
    code, answer = predict(port, path, {'instances': ['a']})
    assert (code, answer) == (200, {'predictions': [1.0]})
