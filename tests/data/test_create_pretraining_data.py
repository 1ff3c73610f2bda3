import os
import subprocess
import sys

import pytest
import tensorflow as tf
from official.nlp.data import pretrain_dataloader

from tokendrop_tf import errors
from tokendrop_tf.data import checks, create_pretraining_data, loader


def create(numbered_text, output, *flags):
  create_pretraining_data.main(
    [
      f'--input={numbered_text.folder}/text.txt',
      f'--vocab_file={numbered_text.vocabulary.path}',
      f'--output={output}',
      '--seq_length=16',
      *flags,
    ]
  )


def token_counts(batches):
  return sum(int(tf.reduce_sum(batch['input_mask'])) for batch in batches)


@pytest.fixture(scope='module')
def records(numbered_text, tmp_path_factory):
  """Two compressed files of masked examples; returns their folder."""
  folder = tmp_path_factory.mktemp('records')
  create(
    numbered_text,
    folder / 'part',
    '--format=tfrecord',
    '--max_predictions_per_seq=3',
    '--num_shards=2',
    '--gzip',
  )
  return folder


@pytest.fixture(scope='module')
def tokens(numbered_text, tmp_path_factory):
  """Two token shards; returns their folder."""
  folder = tmp_path_factory.mktemp('tokens')
  create(numbered_text, folder / 'part', '--num_shards=2')
  return folder


def test_the_names_of_the_files_tell_their_form(records, tokens):
  for folder, suffix, more in (
    (records, 'tfrecord.gz', []),
    (tokens, 'tokens', ['part.index.json']),
  ):
    names = [f'part-0000{shard}-of-00002.{suffix}' for shard in range(2)]
    assert sorted(os.listdir(folder)) == names + more


@pytest.mark.parametrize('kind', ['records', 'tokens'])
def test_what_is_written_trains(numbered_text, kind, request):
  folder = request.getfixturevalue(kind)
  settings = {'is_training': False}
  written = numbered_text.config(input_path=f'{folder}/part*', **settings)
  loader.check_dataset(written, numbered_text.vocabulary)
  live = numbered_text.config(**settings)
  assert token_counts(
    loader.load_dataset(written, numbered_text.vocabulary)
  ) == token_counts(loader.load_dataset(live, numbered_text.vocabulary))


def test_held_out_documents_are_written_apart(numbered_text, tmp_path):
  flags = ['--held_out_documents=5', '--packing=within_documents']
  create(numbered_text, tmp_path / 'train', *flags)
  create(numbered_text, tmp_path / 'valid', *flags, '--held_out')
  words = []
  for name in ('train', 'valid'):
    config = numbered_text.config(
      input_path=f'{tmp_path}/{name}-*',
      is_training=False,
      packing='within_documents',
    )
    ids = set()
    for batch in loader.load_dataset(config, numbered_text.vocabulary):
      labels = batch['masked_lm_ids'][batch['masked_lm_weights'] > 0]
      ids |= set(labels.numpy().tolist())
    words.append(ids)
  assert words[0]
  assert words[1]
  assert not words[0] & words[1]


def test_existing_shards_are_not_touched(numbered_text, tmp_path, capsys):
  path = tmp_path / 'part-00000-of-00001.tokens'
  path.write_bytes(b'precious')
  with pytest.raises(errors.ConfigurationError, match='Pass --overwrite'):
    create(numbered_text, tmp_path / 'part')
  with pytest.raises(errors.ConfigurationError, match='Remove them, or'):
    create(numbered_text, tmp_path / 'part', '--num_shards=2', '--overwrite')
  assert path.read_bytes() == b'precious'
  create(numbered_text, tmp_path / 'part', '--overwrite')
  assert path.stat().st_size > 1000
  printed = capsys.readouterr()
  assert 'sequences of 16 places' in printed.out
  assert 'rows/s' in printed.err


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--input=nowhere'], '--input must name existing files'),
    (['--vocab_file=nowhere'], "--vocab_file='nowhere'. Set --vocab_file"),
    (
      ['--format=tfrecord', '--max_predictions_per_seq=1'],
      'Set --max_predictions_per_seq',
    ),
    (['--masking=span'], '--masking is a flag of --format=tfrecord'),
    (['--num_epochs=5'], 'Set train_data.num_epochs for the run'),
    (['--gzip'], '--gzip is a flag of --format=tfrecord'),
    (['--num_shards=-1'], '--num_shards must be at least 0. Received: -1'),
    (['--mask_rate=0'], '--mask_rate must be above 0'),
    (['--held_out'], '--held_out_documents=0'),
    (['--packing=best'], 'packing'),
    (['--use_next_sentence_label'], 'Unknown flag'),
  ],
)
def test_mistakes_are_named_by_flag(numbered_text, tmp_path, flags, message):
  with pytest.raises(errors.UserError, match=message):
    create(numbered_text, tmp_path / 'part', *flags)
  assert os.listdir(tmp_path) == []


def test_bad_text_behind_the_head_is_named(
  numbered_text, tmp_path, monkeypatch
):
  monkeypatch.setattr(checks, '_HEAD_BYTES', 100)
  monkeypatch.setattr(checks, '_SAMPLE_TOKENS', 1)
  path = tmp_path / 'a.txt'
  path.write_bytes(b'n1 n2 n3\n\n' * 3000 + b'\xff')
  with pytest.raises(errors.DataError) as caught:
    create(numbered_text, tmp_path / 'part', f'--input={path}')
  assert f'{path}, line 6001, which is not UTF-8' in str(caught.value)
  assert 'set --skip_bad_text' in str(caught.value)
  assert not list(tmp_path.glob('part*'))


def test_shards_are_not_text(numbered_text, tmp_path):
  path = tmp_path / 'a.tfrecord'
  path.write_bytes(b'')
  with pytest.raises(errors.DataError, match='--input must name text'):
    create(numbered_text, tmp_path / 'part', f'--input={path}')


@pytest.fixture(scope='module')
def model_garden_file(numbered_text, tmp_path_factory):
  """Examples made by the Model Garden's own tool, with the names it prefers."""
  path = tmp_path_factory.mktemp('model_garden') / 'examples.tf_record'
  subprocess.run(
    [
      sys.executable,
      '-m',
      'official.nlp.data.create_pretraining_data',
      f'--input_file={numbered_text.folder}/text.txt',
      f'--output_file={path}',
      f'--vocab_file={numbered_text.vocabulary.path}',
      '--max_seq_length=16',
      '--max_predictions_per_seq=3',
      '--dupe_factor=1',
      '--gzip_compress',
    ],
    check=True,
    capture_output=True,
  )
  return str(path)


@pytest.mark.parametrize('with_labels', [True, False])
def test_files_of_the_model_gardens_tool_train_unchanged(
  numbered_text, model_garden_file, with_labels
):
  config = numbered_text.config(
    input_path=model_garden_file,
    use_next_sentence_label=with_labels,
    is_training=False,
  )
  loader.check_dataset(config, numbered_text.vocabulary)
  batches = list(loader.load_dataset(config, numbered_text.vocabulary))
  records = list(tf.data.TFRecordDataset(model_garden_file, 'GZIP'))
  assert len(batches) == -(-len(records) // 4)
  assert ('next_sentence_labels' in batches[0]) == with_labels
  example = tf.train.Example.FromString(records[5].numpy()).features.feature
  example['input_word_ids'].CopyFrom(example['input_ids'])
  example['input_type_ids'].CopyFrom(example['segment_ids'])
  for name, value in batches[1].items():
    kind = 'float_list' if name == 'masked_lm_weights' else 'int64_list'
    assert value[1].numpy().tolist() == list(getattr(example[name], kind).value)
  if with_labels:
    assert batches[0]['next_sentence_labels'].shape == [4, 1]


def test_the_model_gardens_loader_reads_our_files(numbered_text, records):
  path = f'{records}/part-00000-of-00002.tfrecord.gz'
  theirs = pretrain_dataloader.BertPretrainDataLoader(
    pretrain_dataloader.BertPretrainDataConfig(
      input_path=path,
      file_type='tfrecord_compressed',
      is_training=False,
      global_batch_size=4,
      drop_remainder=True,
      seq_length=16,
      max_predictions_per_seq=3,
      use_v2_feature_names=True,
      use_next_sentence_label=False,
    )
  ).load()
  ours = loader.load_dataset(
    numbered_text.config(
      input_path=path, is_training=False, drop_remainder=True
    ),
    numbered_text.vocabulary,
  )
  for first, second in zip(theirs, ours, strict=True):
    assert set(first) == set(second)
    for name in first:
      assert first[name].numpy().tolist() == second[name].numpy().tolist()
