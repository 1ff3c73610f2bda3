"""Serves exported models over HTTP, with TF Serving's REST interface.

  python tools/serve.py --model_dir=exports/dropping

  curl -d '{"instances": ["The capital of France is [MASK]."]}' \\
      http://127.0.0.1:8501/v1/models/fill_mask:predict

--model_dir is what `tools/export.py --format=saved_model` wrote, or one model's
folder of it. Requests that come at the same time are answered in common
batches. Only this machine can connect, unless --host says otherwise; there is
no password. Ctrl-C answers what has come in, and ends.
"""

import functools
import json
import socket

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import uvicorn

from tokendrop_tf import errors
from tokendrop_tf.serving import application, batching, served_model

_SHUTDOWN_SECONDS = 60


def main(arguments: list[str]) -> None:
  """Loads the models, and answers requests until Ctrl-C."""
  flags = _parse(arguments)
  folders = served_model.find_models(flags.model_dir, flags.models)
  # Before the models are loaded, which takes some seconds.
  with _listen(flags.host, flags.port) as listener:
    models = [_load(folder) for folder in folders]
    server = build_server(models, flags)
    host, port = listener.getsockname()[:2]
    url = f'http://{f"[{host}]" if ":" in host else host}:{port}/v1/models'
    print(
      f'Serving {", ".join(model.name for model in models)} at {url}. Ctrl-C '
      'ends.',
      flush=True,
    )
    if example := example_request(models[0], url):
      print(f'Try: {example}', flush=True)
    try:
      server.run(sockets=[listener])
    except KeyboardInterrupt:
      raise command_line.Interrupted(
        'What had come in has been answered.'
      ) from None


def _load(folder) -> served_model.ServedModel:
  model = served_model.ServedModel(folder)
  count = model.warm_up()
  print(
    f'Loaded {model.name}, version {model.version}; {count} warm-up requests.',
    flush=True,
  )
  return model


def example_request(model, url: str) -> str | None:
  """Returns a command line that asks the server for an answer.

  It sends a warm-up request of the model; `None` without one.
  """
  requests = dict(reversed(model.requests()))
  inputs = requests.get(served_model.DEFAULT_SIGNATURE)
  if inputs is None:
    return None
  row = {name: _plain(value[0]) for name, value in inputs.items()}
  body = json.dumps({'instances': [row]}, ensure_ascii=False)
  return f"curl -d '{body}' {url}/{model.name}:predict"


def _plain(value):
  return value.decode() if isinstance(value, bytes) else value.tolist()


def build_server(models, flags) -> uvicorn.Server:
  """Returns the server that `main` runs."""
  app = application.build_application(
    models,
    application.Limits(
      flags.max_request_bytes, flags.max_instances, flags.timeout_seconds
    ),
    batching.BatchingSettings(
      flags.max_batch_size,
      flags.batch_timeout_ms / 1000,
      flags.max_queued_instances,
    ),
  )
  config = uvicorn.Config(
    app,
    log_level='info' if flags.verbose else 'error',
    access_log=flags.verbose,
    lifespan='on',
    server_header=False,
    timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
  )
  return uvicorn.Server(config)


def _listen(host, port) -> socket.socket:
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family, backlog=2048)
  except (OSError, OverflowError) as error:
    raise errors.ConfigurationError(
      '--host and --port must be an address of this machine that is free. '
      f'Received: {host}, port {port}: {error}. Set another --port, or --host.'
    ) from error


def _parse(arguments):
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--model_dir',
    required=True,
    help='An exported folder, or NAME/ or NAME/VERSION/ of one.',
  )
  parser.add_argument(
    '--models',
    type=lambda text: [name for name in text.split(',') if name],
    default=[],
    help='Which models to serve, e.g. embeddings,fill_mask. Default all.',
  )
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    help='Address to listen at; 0.0.0.0 lets every machine connect. '
    'Default %(default)s, this machine alone.',
  )
  for flag, default, least, text in (
    ('--port', 8501, 0, "Port to listen at, TF Serving's; 0 is any free one."),
    ('--max_request_bytes', 4 * 2**20, 1, 'Of a body; larger ones get a 413.'),
    ('--max_instances', 1024, 1, 'Rows of one request.'),
    ('--max_batch_size', 32, 1, 'Rows that the model sees at once.'),
    (
      *('--max_queued_instances', 1024, 1),
      'Rows that wait; requests beyond get a 503.',
    ),
    (
      *('--batch_timeout_ms', 2.0, 0),
      'How long an incomplete batch waits for more rows while the model is '
      'idle, in milliseconds.',
    ),
    (
      *('--timeout_seconds', 120.0, 1),
      'After which a request is given up with a 504.',
    ),
  ):
    parser.add_number(flag, default, text, least)
  return parser.parse_args(arguments)


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
