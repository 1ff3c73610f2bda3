"""The GLUE tasks: columns, labels, metrics and submission files.

Wang et al., 2018, arXiv 1804.07461. Column names are those of the files that
GLUE distributes; each has the name of the TFDS feature as an alternative.
"""

import dataclasses

CUSTOM = 'custom'


@dataclasses.dataclass(frozen=True)
class GlueTask:
  """What is fixed about one task.

  Attributes:
    label_names: labels as the files spell them, in the order of their ids; ()
      for regression.
    metric: its main metric, a name of the Model Garden's
      `sentence_prediction.METRIC_TYPES`.
    text_columns: names that the column of the first text may have.
    pair_columns: the same of the second text; () for single texts.
    label_columns: the same of the label.
    index_columns: the same of the number of a row.
    headerless: columns of files without a header, for every kind there is.
    prediction_file: name of the submission file.
    mismatched_file: name of that of the mismatched set.
  """

  label_names: tuple[str, ...]
  metric: str
  text_columns: tuple[str, ...]
  label_columns: tuple[str, ...]
  prediction_file: str
  pair_columns: tuple[str, ...] = ()
  index_columns: tuple[str, ...] = ('index', 'id', 'idx')
  headerless: tuple[tuple[str, ...], ...] = ()
  mismatched_file: str = ''


_BINARY = ('0', '1')
_ENTAILMENT = ('entailment', 'not_entailment')
_PAIR = ('index', 'sentence1', 'sentence2')
_STSB = (
  *('index', 'genre', 'filename', 'year', 'old_index', 'source1', 'source2'),
  *('sentence1', 'sentence2'),
)
_MNLI = (
  *('index', 'promptID', 'pairID', 'genre'),
  *('sentence1_binary_parse', 'sentence2_binary_parse'),
  *('sentence1_parse', 'sentence2_parse', 'sentence1', 'sentence2'),
)
_MRPC = ('#1 ID', '#2 ID', '#1 String', '#2 String')

TASKS = {
  'cola': GlueTask(
    label_names=_BINARY,
    metric='matthews_corrcoef',
    text_columns=('sentence',),
    label_columns=('label',),
    prediction_file='CoLA.tsv',
    headerless=(
      ('source', 'label', 'author_label', 'sentence'),
      ('index', 'sentence'),
    ),
  ),
  'sst2': GlueTask(
    label_names=_BINARY,
    metric='accuracy',
    text_columns=('sentence',),
    label_columns=('label',),
    prediction_file='SST-2.tsv',
    headerless=(('sentence', 'label'), ('index', 'sentence')),
  ),
  'mrpc': GlueTask(
    label_names=_BINARY,
    metric='f1',
    text_columns=('#1 String', 'sentence1'),
    pair_columns=('#2 String', 'sentence2'),
    label_columns=('Quality', 'label'),
    prediction_file='MRPC.tsv',
    headerless=(('Quality', *_MRPC), ('index', *_MRPC)),
  ),
  'stsb': GlueTask(
    label_names=(),
    metric='pearson_spearman_corr',
    text_columns=('sentence1',),
    pair_columns=('sentence2',),
    label_columns=('score', 'label'),
    prediction_file='STS-B.tsv',
    headerless=((*_STSB, 'score'), _STSB),
  ),
  'qqp': GlueTask(
    label_names=_BINARY,
    metric='f1',
    text_columns=('question1',),
    pair_columns=('question2',),
    label_columns=('is_duplicate', 'label'),
    prediction_file='QQP.tsv',
    headerless=(
      ('id', 'qid1', 'qid2', 'question1', 'question2', 'is_duplicate'),
      ('id', 'question1', 'question2'),
    ),
  ),
  'mnli': GlueTask(
    label_names=('entailment', 'neutral', 'contradiction'),
    metric='accuracy',
    text_columns=('sentence1', 'premise'),
    pair_columns=('sentence2', 'hypothesis'),
    label_columns=('gold_label', 'label'),
    prediction_file='MNLI-m.tsv',
    mismatched_file='MNLI-mm.tsv',
    headerless=(
      (*_MNLI, 'label1', 'gold_label'),
      (*_MNLI, *(f'label{n}' for n in range(1, 6)), 'gold_label'),
      _MNLI,
    ),
  ),
  'qnli': GlueTask(
    label_names=_ENTAILMENT,
    metric='accuracy',
    text_columns=('question',),
    pair_columns=('sentence',),
    label_columns=('label',),
    prediction_file='QNLI.tsv',
    headerless=(
      ('index', 'question', 'sentence', 'label'),
      ('index', 'question', 'sentence'),
    ),
  ),
  'rte': GlueTask(
    label_names=_ENTAILMENT,
    metric='accuracy',
    text_columns=('sentence1',),
    pair_columns=('sentence2',),
    label_columns=('label',),
    prediction_file='RTE.tsv',
    headerless=((*_PAIR, 'label'), _PAIR),
  ),
}


def resolve(
  task: str,
  *,
  label_names: tuple[str, ...] = (),
  is_regression: bool = False,
  metric: str = '',
  text_column: str = '',
  text_pair_column: str = '',
  label_column: str = '',
  index_column: str = '',
  column_names: tuple[str, ...] = (),
) -> GlueTask:
  """Returns a task with what the user has set in place of its own.

  Args:
    task: a key of `TASKS`, or 'custom'.
    label_names: labels; () is the task's own.
    is_regression: whether a custom task predicts numbers.
    metric: main metric; '' is the task's own.
    text_column: column of the first text; '' is the task's own.
    text_pair_column: column of the second text.
    label_column: column of the label.
    index_column: column that names a row in prediction files.
    column_names: columns of files without a header.

  Example:
    resolve('rte').label_names  # ('entailment', 'not_entailment')
  """
  known = TASKS.get(task)
  if known is None:
    known = GlueTask(
      label_names=(),
      metric='pearson_spearman_corr' if is_regression else 'accuracy',
      text_columns=(text_column,),
      label_columns=(label_column,),
      prediction_file='predictions.tsv',
    )
  changes = {
    'label_names': label_names,
    'metric': metric,
    'text_columns': (text_column,) if text_column else (),
    'pair_columns': (text_pair_column,) if text_pair_column else (),
    'label_columns': (label_column,) if label_column else (),
    'index_columns': (index_column,) if index_column else (),
    'headerless': (tuple(column_names),) if column_names else (),
  }
  return dataclasses.replace(
    known, **{name: value for name, value in changes.items() if value}
  )
