"""Makes training data on other machines: the processes of tf.data service.

  python tools/data_service.py --port=5050                    # the dispatcher
  python tools/data_service.py --dispatcher=10.0.0.2:5050     # every worker

The training then has `train_data.tf_data_service_address = '10.0.0.2:5050'`.
Workers read the corpus and the vocabulary under the training's paths. Whoever
reaches a dispatcher can have its workers read files: keep it in a network of
your own.
"""

import signal
import socket
import threading

from tokendrop_tf import command_line, errors

# isort: split
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the operations of the pipeline)

from tokendrop_tf import configs

PROTOCOL = 'grpc'
# What runs Python, which stays in the process that made it.
_LOCAL_OPERATIONS = ('PyFunc', 'PyFuncStateless', 'EagerPyFunc')


def main(arguments):
  """Serves until SIGTERM or Ctrl-C."""
  flags = parse_flags(arguments)
  server = start(flags)
  is_over = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: is_over.set())
  what = 'worker' if flags.dispatcher else 'dispatcher'
  print(f'tf.data service: {what} at {address_of(server)}', flush=True)
  while not is_over.wait(1.0):
    pass


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='python tools/data_service.py', description=__doc__
  )
  parser.add_argument(
    '--port',
    type=int,
    default=0,
    help='Port to listen at (default: any that is free).',
  )
  parser.add_argument(
    '--dispatcher',
    default='',
    metavar='HOST:PORT',
    help='Of a worker: the dispatcher. Without it this is the dispatcher.',
  )
  parser.add_argument(
    '--host',
    default=socket.gethostname(),
    help='Of a worker: the name by which the training finds this machine '
    '(default: %(default)s).',
  )
  flags = parser.parse_args(arguments)
  if not 0 <= flags.port < 2**16:
    raise errors.ConfigurationError(
      f'--port must be between 0 and 65535. Received: {flags.port}. Set --port.'
    )
  if flags.dispatcher:
    configs.check_address('--dispatcher', flags.dispatcher)
  return flags


def start(flags):
  """Returns a running server.

  Raises:
    errors.ConfigurationError: if the port is taken.
  """
  service = tf.data.experimental.service
  try:
    if not flags.dispatcher:
      return service.DispatchServer(
        service.DispatcherConfig(port=flags.port, protocol=PROTOCOL)
      )
    port = flags.port or _free_port()
    return service.WorkerServer(
      service.WorkerConfig(
        dispatcher_address=flags.dispatcher,
        worker_address=f'{flags.host}:{port}',
        port=port,
        protocol=PROTOCOL,
      )
    )
  except (tf.errors.OpError, RuntimeError) as error:
    raise errors.ConfigurationError(
      'The port must be free, and the dispatcher must answer. Received: '
      f'--port={flags.port}, --dispatcher={flags.dispatcher!r}: '
      f'{getattr(error, "message", error)}. Set another --port.'
    ) from error


def _free_port() -> int:
  with socket.socket() as listener:
    listener.bind(('', 0))
    return listener.getsockname()[1]


def address_of(server) -> str:
  """Returns 'host:port' of a server that `start` gave."""
  if hasattr(server, 'target'):
    return server.target.split('://')[-1]
  return server._address  # pylint: disable=protected-access


def distribute(
  batches: tf.data.Dataset, config: configs.PretrainingDataConfig, job: str
) -> tf.data.Dataset:
  """Has `batches` made by the workers of a tf.data service.

  A worker makes whole passes over the corpus: with W workers, W passes are
  mixed, and every document is read once in each.

  Args:
    batches: a data set whose source is the numbers of the epochs.
    config: has the service's address.
    job: name that the pipelines of one training share; each batch goes to one
      of them. '' for a training with one pipeline.

  Raises:
    errors.ConfigurationError: if the source needs Python, or no dispatcher
      answers.
  """
  address = config.tf_data_service_address
  if local := _local_operations(batches):
    raise errors.ConfigurationError(
      'tf.data service takes pipelines that need no Python: text files and '
      'TFRecords. Received: '
      f'train_data.tf_data_service_address={address!r} with '
      f'{", ".join(sorted(local))}. Leave it unset, or write TFRecords with '
      'tools/create_pretraining_data.py.'
    )
  _require_answer(address)
  return batches.apply(
    tf.data.experimental.service.distribute(
      processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
      service=f'{PROTOCOL}://{address}',
      job_name=job or None,
    )
  )


def _local_operations(dataset) -> set[str]:
  """Returns the operations of a data set that run Python."""
  graph = tf.compat.v1.GraphDef.FromString(
    dataset._as_serialized_graph().numpy()  # pylint: disable=protected-access
  )
  nodes = list(graph.node)
  for function in graph.library.function:
    nodes += function.node_def
  return {node.op for node in nodes if node.op in _LOCAL_OPERATIONS}


def _require_answer(address):
  """TensorFlow would try again for ever."""
  host, _, port = address.rpartition(':')
  try:
    with socket.create_connection((host, int(port)), timeout=10):
      pass
  except OSError as error:
    raise errors.ConfigurationError(
      'train_data.tf_data_service_address must be that of a dispatcher that '
      f'answers. Received: {address!r}: {error}. Start it with '
      'tools/data_service.py, or set train_data.tf_data_service_address.'
    ) from error


def console_main():
  """Entry point of the command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
