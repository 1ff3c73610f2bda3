"""What the launcher does for fine-tuning where it differs from pretraining."""

from tokendrop_tf import checkpoints, run_folder
from tokendrop_tf.finetuning import (
  configs,
  predictions,
  question_task,  # noqa: F401  (registers the task)
  resolution,
  sentence_data,
  sentence_task,  # noqa: F401  (registers the task)
  squad_windows,
)


def check_configuration(params, mode, model_dir):
  """Checks and completes the tree, and checks it against the folder.

  Args:
    params: an `ExperimentConfig` of fine-tuning, not locked.
    mode: the launcher's mode.
    model_dir: folder of the run.

  Raises:
    errors.UserError: for the first thing that is wrong.
  """
  is_training = 'train' in mode
  if not is_training and run_folder.has_configuration(model_dir):
    _take_over(params, model_dir)
  configs.validate_experiment(params)
  configs.validate_sources(params, mode)
  if is_training:
    run_folder.check_writable(model_dir)
  resolution.resolve(params, mode, checkpoints.newest(model_dir))
  if is_training:
    run_folder.check_unchanged(params, model_dir)
  elif run_folder.has_configuration(model_dir):
    run_folder.check_same_model(params, model_dir)
  if mode == 'eval':
    run_folder.require_checkpoint(model_dir)


def _take_over(params, model_dir):
  """Takes what a trained model fixes from its run: it may have moved on."""
  saved = run_folder.load_params(
    configs.experiment_name(params.task), model_dir
  )
  params.task.model = saved.task.model
  if params.task.vocabulary.path != saved.task.vocabulary.path:
    params.task.vocabulary.lower_case = saved.task.vocabulary.lower_case
  if isinstance(params.task, configs.GlueTaskConfig):
    params.task.glue.label_names = tuple(saved.task.glue.label_names)
    params.task.glue.is_regression = saved.task.glue.is_regression
  if params.trainer.train_steps == configs.STEPS_FROM_EPOCHS:
    params.trainer = saved.trainer


def check_data(params, mode):
  """Reads what will be read at the end, so that it is wrong at the start.

  Raises:
    errors.DataError: for data that cannot be used.
  """
  task = params.task
  is_glue = isinstance(task, configs.GlueTaskConfig)
  section = 'glue' if is_glue else 'squad'
  names = ['test_data']
  if is_glue:
    names.append('mismatched_test_data')
  if 'eval' in mode:
    names += [name.replace('test', 'validation') for name in names]
  for name in names:
    data = getattr(task, name)
    if not configs.has_source(data):
      continue
    setting = f'{section}.{name}'
    if is_glue:
      needs_labels = 'validation' in name
      sentence_data.read_texts(data, task.glue, setting, needs_labels)
    else:
      squad_windows.windows_of(data, task.squad, task.vocabulary, setting)


def write_predictions(experiment, strategy, model_dir):
  """Writes prediction files where the tree asks for them; returns the paths.

  Args:
    experiment: the `OrbitExperimentRunner` that has run.
    strategy: its strategy.
    model_dir: folder of the run.
  """
  return predictions.write_predictions(
    experiment.trainer.task, experiment.trainer.model, strategy, model_dir
  )
