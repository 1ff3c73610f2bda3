"""Runs only where Apache Beam is installed: make test-beam."""

import gzip
import os
import re

import pytest
import tiny_runs

pytest.importorskip('apache_beam', reason='No Apache Beam: make test-beam.')

from tokendrop_tf import errors
from tokendrop_tf.data import build_vocab, create_pretraining_data
from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.shards import (
  beam_pipeline,
  shard_job,
  shard_writer,
  token_index,
  work_folder,
)

TWO_WORKERS = (
  '--runner=DirectRunner --direct_num_workers=2 '
  '--direct_running_mode=multi_threading'
)


@pytest.fixture
def small_windows(monkeypatch):
  """Several windows of documents in every epoch, and chunks in a shard."""
  monkeypatch.setattr(example_pipeline, 'BLOCK_ROWS', 16)
  monkeypatch.setattr(shard_writer, 'WINDOW_BYTES', 3000)
  monkeypatch.setattr(token_index, 'CHUNK_BYTES', 256)


@pytest.fixture(scope='module')
def split_text(numbered_text):
  """The numbered text in five files, every other one compressed."""
  folder = numbered_text.folder / 'for_beam'
  folder.mkdir()
  documents = (numbered_text.folder / 'text.txt').read_text().split('\n\n')
  for file in range(5):
    content = '\n\n'.join(documents[file::5]).encode()
    name = f'{file}.txt.gz' if file % 2 else f'{file}.txt'
    (folder / name).write_bytes(gzip.compress(content) if file % 2 else content)
  return str(folder / '*')


@pytest.fixture(scope='module')
def tfds_folder(numbered_text, tmp_path_factory):
  """The numbered text as `tiny_texts`; workers know only its files."""
  import tensorflow_datasets as tfds

  half = len(numbered_text.documents) // 2
  examples = [{'body': ' '.join(words)} for words in numbered_text.documents]
  return tiny_runs.build_tfds(
    tmp_path_factory.mktemp('tfds'),
    {'body': tfds.features.Text()},
    {'train': examples[:half], 'test': examples[half:]},
  )


def jobs(numbered_text, tmp_path, form='tokens', **settings):
  """Returns a job for each tool; they differ in the folder alone."""
  return [
    shard_job.ShardJob(
      numbered_text.config(**settings),
      numbered_text.vocabulary,
      str(tmp_path / name / 'part'),
      3,
      form,
    )
    for name in ('one', 'beam')
  ]


def contents(job):
  """Returns the files of a job by name."""
  folder = os.path.dirname(job.output)
  return {
    name: open(os.path.join(folder, name), 'rb').read()
    for name in os.listdir(folder)
  }


@pytest.mark.parametrize(
  'settings',
  [
    {'form': 'tfrecord', 'num_epochs': 2, 'seed': 7},
    {'seed': 7},
    {'packing': 'best_fit'},
    {'packing': 'within_documents', 'held_out_documents': 5},
    {'held_out_documents': 5, 'is_training': False},
  ],
)
def test_both_tools_write_the_same_files(
  numbered_text, split_text, small_windows, tmp_path, settings
):
  settings = {'input_path': split_text} | settings
  one, by_beam = jobs(numbered_text, tmp_path, **settings)
  written = shard_writer.write_shards(one)
  work = work_folder.WorkFolder(str(tmp_path / 'work'))
  assert beam_pipeline.write_shards(by_beam, work, TWO_WORKERS) == written
  assert written.rows > 32
  assert contents(by_beam) == contents(one)
  assert not os.path.exists(work.path)


def test_an_interrupted_pipeline_is_resumed(
  numbered_text, split_text, small_windows, tmp_path, monkeypatch
):
  one, by_beam = jobs(numbered_text, tmp_path, input_path=split_text)
  shard_writer.write_shards(one)
  work = work_folder.WorkFolder(str(tmp_path / 'work'))
  finish = shard_writer.RowWriter.finish

  def stop(writer, shard):
    if shard == 1:
      raise errors.DataError('The machine was taken back.')
    finish(writer, shard)

  with monkeypatch.context() as patch:
    patch.setattr(shard_writer.RowWriter, 'finish', stop)
    with pytest.raises(errors.DataError, match='^The machine was taken back.$'):
      beam_pipeline.write_shards(by_beam, work)
  assert work.belongs_to(by_beam.fingerprint())
  assert not os.path.exists(by_beam.path(1))
  before = os.stat(by_beam.path(0)).st_mtime_ns
  monkeypatch.setattr(shard_writer.RowWriter, 'deal', None)  # All is dealt.
  beam_pipeline.write_shards(by_beam, work)
  assert os.stat(by_beam.path(0)).st_mtime_ns == before
  assert contents(by_beam) == contents(one)


def test_a_damaged_file_is_named(numbered_text, tmp_path):
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(gzip.compress(b'n1 n2 ' * 1000)[:-9])
  _, job = jobs(numbered_text, tmp_path, input_path=str(path))
  with pytest.raises(errors.DataError, match='whole gzip data') as caught:
    beam_pipeline.write_shards(
      job, work_folder.WorkFolder(str(tmp_path / 'work'))
    )
  assert str(caught.value).endswith('Write or copy the file again.')


def tfds_flags(folder):
  return [
    '--tfds_name=tiny_texts',
    # Parts of two splits, which begin and end within a file.
    '--tfds_split=train[5:]+test[:80%]',
    '--tfds_text_feature=body',
    f'--tfds_data_dir={folder}',
  ]


@pytest.mark.parametrize(
  ('options', 'flags'),
  [
    (
      TWO_WORKERS,
      [
        '--held_out_documents=7',
        '--num_epochs=2',
        '--format=tfrecord',
        '--max_predictions_per_seq=3',
      ],
    ),
    (TWO_WORKERS, ['--held_out_documents=7', '--held_out']),
    (
      # Processes that begin with nothing but what they are sent.
      TWO_WORKERS.replace('multi_threading', 'multi_processing'),
      ['--packing=best_fit'],
    ),
  ],
)
def test_both_tools_write_the_same_files_of_tfds(
  numbered_text, tfds_folder, tmp_path, options, flags
):
  for name, more in (('one', []), ('beam', [f'--beam_options={options}'])):
    create_pretraining_data.main(
      [
        *tfds_flags(tfds_folder),
        f'--vocab_file={numbered_text.vocabulary.path}',
        f'--output={tmp_path}/{name}/part',
        '--seq_length=16',
        '--num_shards=3',
        *flags,
        *more,
      ]
    )
  one, by_beam = (
    {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    for name in ('one', 'beam')
  )
  assert one == by_beam
  assert len(one) >= 3


def test_both_tools_make_the_same_vocabulary_of_tfds(tfds_folder, tmp_path):
  for name, more in (('one', []), ('beam', [f'--beam_options={TWO_WORKERS}'])):
    build_vocab.main(
      [
        *tfds_flags(tfds_folder),
        '--vocab_size=300',
        f'--output={tmp_path}/{name}.txt',
        *more,
      ]
    )
  for end in ('.txt', '.counts.tsv'):
    one, by_beam = (
      (tmp_path / f'{name}{end}').read_text() for name in ('one', 'beam')
    )
    assert one == by_beam


@pytest.mark.parametrize('megabytes', [256, 1])
def test_both_tools_write_the_same_vocabulary(
  split_text, tmp_path, megabytes, capsys, monkeypatch
):
  # One part in two of so small a text.
  monkeypatch.setattr(
    'tokendrop_tf.data.read.corpus.TextCorpus.num_bytes',
    lambda corpus: 2_000_000,
  )
  for name, flags in (('one', []), ('beam', ['--beam_options='])):
    build_vocab.main(
      [
        f'--input={split_text}',
        '--vocab_size=300',
        f'--sample_megabytes={megabytes}',
        f'--output={tmp_path}/{name}.txt',
        *flags,
      ]
    )
  for end in ('.txt', '.counts.tsv'):
    one, by_beam = (
      (tmp_path / f'{n}{end}').read_text() for n in ('one', 'beam')
    )
    assert one == by_beam
  sampled = re.findall('Training on 50.0%', capsys.readouterr().out)
  assert len(sampled) == (2 if megabytes == 1 else 0)
  assert sorted(os.listdir(tmp_path)) == [
    'beam.counts.tsv',
    'beam.tokenizer_config.json',
    'beam.txt',
    'one.counts.tsv',
    'one.tokenizer_config.json',
    'one.txt',
  ]


def test_the_tool_writes_by_beam(numbered_text, tmp_path, capsys):
  create_pretraining_data.main(
    [
      f'--input={numbered_text.folder}/text.txt',
      f'--vocab_file={numbered_text.vocabulary.path}',
      f'--output={tmp_path}/part',
      '--seq_length=16',
      f'--beam_options={TWO_WORKERS}',
    ]
  )
  assert sorted(os.listdir(tmp_path)) == [
    'part-00000-of-00001.tokens',
    'part.index.json',
  ]
  assert 'Packing 1 windows.' in capsys.readouterr().out
