"""Inputs and outputs of exported models stay as they are, and their files."""

import pytest
from golden import collect


def test_saved_models_keep_their_signatures_and_files(exported_run):
  folder = exported_run.folders['saved_model']
  collect.assert_kept('files', 'export saved_model', collect.files(folder))
  found = collect.signatures(folder)
  collect.assert_kept('signatures', 'pretraining', found)


@pytest.mark.parametrize(
  'kind', ['pretraining', 'pair', 'regression', 'answer']
)
def test_serving_models_keep_their_signatures(exports, kind):
  found = collect.signatures(exports.path(kind))
  collect.assert_kept('signatures', f'serving {kind}', found)
