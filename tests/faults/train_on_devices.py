"""Trains, and writes down the importance table of every replica.

python -m faults.train_on_devices OUTPUT FLAGS OF TRAIN
"""

import json
import sys

from tokendrop_tf import command_line, runner, train  # noqa: F401


def main(output, arguments):
  run_loops = runner.run_loops

  def run_and_write(experiment):
    run_loops(experiment)
    table = experiment.trainer.model.encoder_network.token_importance.table
    tables = experiment.trainer.strategy.experimental_local_results(table)
    with open(output, 'w') as file:
      json.dump([copy.numpy().tolist() for copy in tables], file)

  runner.run_loops = run_and_write
  train.main(arguments)


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2:])
