"""docs/dropping.md shows and counts what plans do."""

import ast
import pathlib
import re

import pytest

from tests.dropping import test_cost
from tokendrop_tf.dropping import cost
from tokendrop_tf.pages import plan_pictures

DOCS = pathlib.Path(__file__).resolve().parents[2] / 'docs'
PAGE = (DOCS / 'dropping.md').read_text(encoding='utf-8')
COSTS = re.findall(
  r'^\| [a-z ]+ \| (.*) \| (\d\.\d{3}) \|$', PAGE, re.MULTILINE
)


@pytest.mark.parametrize('name', plan_pictures.NAMES)
def test_a_picture_is_that_of_the_plan(name):
  assert f'(plans/{name}.svg)' in PAGE
  shown = (DOCS / 'plans' / f'{name}.svg').read_text(encoding='utf-8')
  assert shown == plan_pictures.picture(name), 'Run: make docs'


@pytest.mark.parametrize(('text', 'share'), COSTS)
def test_the_table_says_what_plans_cost(text, share):
  assert len(COSTS) == 11
  settings = {
    name: ast.literal_eval(value)
    for name, value in re.findall(r'`(\w+) = (.*?)`', text)
  }
  slots = settings.pop('max_predictions_per_seq', test_cost.P)
  task = test_cost.make_task(**settings)
  task.train_data.max_predictions_per_seq = slots
  plain = cost.mean_cost(test_cost.make_task(policy='none'))
  assert f'{cost.mean_cost(task) / plain:.3f}' == share
