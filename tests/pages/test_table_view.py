"""The importance table as the report shows it."""

import numpy as np

from tokendrop_tf.pages import table_view


def test_expected_updates_are_those_of_drawing_labels():
  counts = np.array([5, 1000, 300, 20, 2])  # Id 0 has no label.
  ordinary = np.arange(1, 5)
  expected = table_view.expected_updates(
    counts, ordinary, labels_per_step=20, steps=400
  )
  random = np.random.default_rng(3)
  share = counts[ordinary] / counts[ordinary].sum()
  draws = random.multinomial(20, share, size=(200, 400)) > 0
  updates = draws.sum(axis=1)  # [200, 4]
  error = updates.std(axis=0) / np.sqrt(200) + 1e-9
  # The draws are a little less spread than the Poisson counts of the formula.
  np.testing.assert_array_less(
    np.abs(updates.mean(axis=0) - expected[ordinary]),
    4 * error + 0.02 * expected[ordinary],
  )


def make_table(values, counts, updates):
  return table_view.ImportanceTable(
    values=np.array(values, np.float32),
    counts=np.array(counts),
    updates=np.array(updates),
    beta=0.995,
    ordinary_ids=np.arange(1, len(values)),
    tokens=tuple(f't{i}' for i in range(len(values))),
  )


def test_lists_are_sorted_and_omit_special_and_unlearnt_tokens():
  values = [0.0, *np.linspace(9.0, 1.0, 60)]
  updates = [1e9, *([10.0] * 20), *([500.0] * 40)]
  table = make_table(values, np.arange(61), updates)
  dropped, kept = table.lists().values()
  assert [score.token for score in dropped[:3]] == ['t60', 't59', 't58']
  assert [score.token for score in kept[:3]] == ['t21', 't22', 't23']
  assert len(dropped) == len(kept) == table_view.NUM_LISTED_TOKENS
  assert dropped[0].converged > 0.9
  assert '40 of 60 entries are learnt' in table.note()


def test_a_table_with_too_few_learnt_entries_has_no_lists():
  table = make_table(np.arange(100.0), np.arange(100), np.full(100, 150.0))
  assert table.lists() == {}
  assert 'too few to list' in table.note()


def test_scatter_takes_a_bounded_sample_of_all_frequencies(monkeypatch):
  monkeypatch.setattr(table_view, 'MAX_SCATTERED_TOKENS', 20)
  table = make_table(np.ones(200), np.arange(200), np.zeros(200))
  counts = [score.count for score in table.sample()]
  assert len(counts) == len(set(counts)) == 20
  assert counts[:10] == list(range(199, 189, -1))
  assert counts[-1] == 1
