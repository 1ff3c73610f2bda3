"""The serving benchmark, on a model that takes no time."""

import json

from tools.measure import serving_benchmark


def test_both_comparisons_are_measured_in_one_run(tmp_path, capsys):
  path = tmp_path / 'results.json'
  sizes = {'num_layers': 1, 'hidden_size': 8, 'num_attention_heads': 1}
  sizes |= {'vocab_size': 300, 'seq_length': 16, 'batch_size': 2}
  sizes |= {'repeats': 2, 'warm_up': 1, 'rounds': 1, 'num_clients': 2}
  serving_benchmark.main(
    [
      *(f'--{name}={value}' for name, value in sizes.items()),
      '--load_seconds=1',
      f'--output_json={path}',
    ]
  )
  results = json.loads(path.read_text())
  arms = results['batches']['seconds']
  assert [len(seconds) for seconds in arms.values()] == [2, 2, 2]
  assert results['batches']['ratio_to_encoder']['encoder'] == 1.0
  [load] = results['server']['loads']
  assert load['num_failures'] == 0
  assert load['num_requests'] > 0
  printed = capsys.readouterr().out
  for name in ('text_in', 'ids_in', 'in_process', 'failed requests: 0'):
    assert name in printed


def test_texts_have_one_token_per_word():
  vocabulary = serving_benchmark.make_vocabulary(300)
  assert vocabulary.size == 300
  texts = serving_benchmark.make_texts(vocabulary, num_texts=5, num_words=14)
  assert len(set(texts)) == 5
  ids = vocabulary.tokenizer().tokenize(texts)
  assert ids.row_lengths().numpy().tolist() == [14] * 5
  assert vocabulary.unk_id not in ids.flat_values.numpy()
