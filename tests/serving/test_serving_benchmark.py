"""The serving benchmark: its texts, its turns, its ratios."""

from tokendrop_tf.serving import benchmark


def test_texts_have_a_token_a_word():
  vocabulary = benchmark.make_vocabulary(300)
  assert vocabulary.size == 300
  texts = benchmark.make_texts(vocabulary, num_texts=5, num_words=14)
  assert len(set(texts)) == 5
  ids = vocabulary.tokenizer().tokenize(texts)
  assert ids.row_lengths().numpy().tolist() == [14] * 5
  assert vocabulary.unk_id not in ids.flat_values.numpy()


def test_arms_take_turns_and_the_first_calls_are_not_counted():
  calls = []
  arms = {name: lambda name=name: calls.append(name) for name in 'ab'}
  seconds = benchmark.time_batches(arms, repeats=3, warm_up=1)
  assert calls == ['a', 'b'] * 4
  assert [len(values) for values in seconds.values()] == [3, 3]


def test_the_report_shows_ratios_and_failures():
  batches = {
    'median_seconds': {'encoder': 2.0, 'text_in': 2.1},
    'ratio_to_encoder': {'encoder': 1.0, 'text_in': 1.05},
  }
  server = {
    'median_texts_per_second': {'in_process': 20.0, 'server': 19.0},
    'loads': [{'num_failures': 1}, {'num_failures': 2}],
  }
  report = benchmark.format_report({'batches': batches, 'server': server})
  rows = [line.split() for line in report.splitlines()]
  assert ['text_in', '2.1000', '1.050'] in rows
  assert ['server', '19.00', '0.950'] in rows
  assert rows[-1] == ['failed', 'requests:', '3']
