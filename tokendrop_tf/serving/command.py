"""Serves exported models over HTTP, with TF Serving's REST interface.

  python tools/serve.py --model_dir=exports/dropping

  curl -d '{"instances": ["The capital of France is [MASK]."]}' \\
      http://127.0.0.1:8501/v1/models/fill_mask:predict

--model_dir is what `tools/export.py --format=saved_model` wrote, or one model's
folder of it. Requests that come at the same time are answered in common
batches. Only this machine can connect, unless --host says otherwise; there is
no password. Ctrl-C answers what has come in, and ends.
"""

import socket

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import uvicorn

from tokendrop_tf import errors
from tokendrop_tf.serving import application, batching, served_model

_DEFAULT_PORT = 8501  # TF Serving's for REST
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
  numbers = {
    '--port': (_DEFAULT_PORT, 'Port to listen at; 0 is any free one.'),
    '--max_request_bytes': (4 * 2**20, 'Of a body; larger ones get a 413.'),
    '--max_instances': (1024, 'Rows of one request.'),
    '--max_batch_size': (32, 'Rows that the model sees at once.'),
    '--max_queued_instances': (
      1024,
      'Rows that wait; requests beyond get a 503.',
    ),
  }
  for name, (default, text) in numbers.items():
    parser.add_argument(
      name, type=int, default=default, help=f'{text} Default %(default)s.'
    )
  parser.add_argument(
    '--batch_timeout_ms',
    type=float,
    default=2.0,
    help='How long an incomplete batch waits for more rows while the model is '
    'idle, in milliseconds. Default %(default)s.',
  )
  parser.add_argument(
    '--timeout_seconds',
    type=float,
    default=120.0,
    help='After which a request is given up with a 504. Default %(default)s.',
  )
  flags = parser.parse_args(arguments)
  least = dict.fromkeys(numbers, 1) | {'--port': 0, '--batch_timeout_ms': 0}
  least['--timeout_seconds'] = 1
  for name, value in least.items():
    received = getattr(flags, name.removeprefix('--'))
    if received < value:
      raise errors.ConfigurationError(
        f'{name} must be at least {value}. Received: {received}. Set a larger '
        f'{name}.'
      )
  return flags


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
