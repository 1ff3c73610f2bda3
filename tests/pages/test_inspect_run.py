"""The page about what a run drops."""

import numpy as np
import pytest
import tiny_runs

from tokendrop_tf import errors, train
from tokendrop_tf.export import load_model
from tokendrop_tf.pages import inspect_run, validation_text
from tokendrop_tf.text import vocabulary as vocabulary_lib


@pytest.fixture(scope='module')
def run(tiny_corpus, tmp_path_factory) -> str:
  """Four steps, with a checkpoint after each two."""
  folder = str(tmp_path_factory.mktemp('inspected') / 'run')
  train.main(
    [
      f'--model_dir={folder}',
      '--mode=train',
      *(
        f'--gin_params={binding}'
        for binding in (
          *tiny_runs.TRAINING,
          f"vocabulary.path = '{tiny_corpus.vocabulary}'",
          f"train_data.input_path = '{tiny_corpus.train}'",
          f"validation_data.input_path = '{tiny_corpus.valid}'",
          'token_drop.token_loss_beta = 0.5',
          'trainer.train_steps = 4',
          'trainer.steps_per_loop = 2',
          'trainer.checkpoint_interval = 2',
        )
      ),
    ]
  )
  return folder


@pytest.mark.parametrize(
  ('token', 'kind'),
  [
    ('##ing', inspect_run.SUBWORDS),
    ('##7', inspect_run.SUBWORDS),
    ('1984', inspect_run.NUMBERS),
    ('—', inspect_run.MARKS),
    ('Ada', inspect_run.CAPITALS),
    ('The', 'small words'),
    ('river', inspect_run.OTHERS),
  ],
)
def test_a_token_is_of_the_first_kind_that_it_fits(token, kind):
  assert inspect_run.kind_of(token, {'small words': {'the'}}) == kind


def test_equal_rankings_agree_and_moves_are_places():
  words = vocabulary_lib.Vocabulary((*vocabulary_lib.SPECIAL_TOKENS, *'abcd'))
  tables = {
    1: np.float32([9] * 5 + [1, 2, 3, 4]),
    2: np.float32([0] * 5 + [5, 4, 3, 2]),
    3: np.float32([1] * 5 + [40, 20, 30, 10]),
  }
  steps = inspect_run.rankings(tables, words.ordinary_ids)
  assert [(r.step, round(r.agreement, 6)) for r in steps] == [
    (1, -0.8),
    (2, 0.8),
    (3, 1.0),
  ]
  assert inspect_run.most_moved(tables, words) == [
    ('a', 3),
    ('d', -3),
    ('b', 0),
    ('c', 0),
  ]
  ties = inspect_run.rankings({1: np.ones(9), 2: tables[1]}, words.ordinary_ids)
  assert np.isnan(ties[0].agreement)


def test_states_part_where_tokens_are_dropped(run):
  """Layer 1 of 3 is the crossing: it leaves what it does not compute."""
  loaded = load_model.load_model(run)
  rows = validation_text.validation_rows(loaded.params.task)[:4]
  computed = inspect_run.computed_places(loaded, rows)
  found = inspect_run.similarity_by_layer(loaded, rows, computed)
  assert found.shape == (3, 2)
  # What crosses sees all tokens, as in a full pass.
  assert found[0, 0] == pytest.approx(1, abs=1e-5)
  assert found[0, 1] < 0.99
  assert (found <= 1 + 1e-6).all()


def test_the_page_shows_kinds_and_lists_of_ones_own(run, tmp_path):
  (tmp_path / 'frequent.txt').write_text('w00\nw01\nw02\nw03\n')
  page = tmp_path / 'page.html'
  inspect_run.main(
    [
      f'--model_dir={run}',
      f'--html={page}',
      f'--words=frequent={tmp_path}/frequent.txt',
      '--num_rows=8',
    ]
  )
  text = page.read_text()
  for words in ('frequent', 'numbers', 'Spearman', 'Mean cosine', '1.000'):
    assert words in text
  loaded = load_model.load_model(run)
  rows = validation_text.validation_rows(loaded.params.task)[:8]
  kinds = inspect_run.kinds_of_tokens(
    loaded,
    rows,
    inspect_run.computed_places(loaded, rows),
    {'frequent': {'w00', 'w01', 'w02', 'w03'}},
  )
  ordinary = np.isin(rows, loaded.vocabulary.ordinary_ids)
  assert sum(kind.count for kind in kinds) == ordinary.sum()
  # Their losses fell first.
  assert kinds[0].name == 'frequent'
  assert kinds[0].importance < kinds[1].importance
  assert sum(k.count * k.dropped for k in kinds) == pytest.approx(8 * 16)


def test_what_has_nothing_to_show_is_refused(run, tmp_path):
  with pytest.raises(errors.ConfigurationError, match='NAME=FILE.*absent'):
    inspect_run.main(
      [f'--model_dir={run}', f'--html={tmp_path}/a', '--words=names=absent']
    )
