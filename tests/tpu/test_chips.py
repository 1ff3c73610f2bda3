"""Topologies by name."""

import pytest

from tools.tpu import chips


@pytest.mark.parametrize(
  ('name', 'generation', 'num_chips', 'accelerator'),
  [
    ('v5e:2x2', 'v5e', 4, 'v5litepod-4'),
    ('v4:2x2x1', 'v4', 4, 'v4-8'),
    ('v6e:4x4', 'v6e', 16, 'v6e-16'),
  ],
)
def test_a_name_gives_chip_number_and_environment(
  name, generation, num_chips, accelerator
):
  chip, found = chips.parse_topology(name)
  assert (chip.name, found) == (generation, num_chips)
  assert chips.environment(name)['TPU_ACCELERATOR_TYPE'] == accelerator


@pytest.mark.parametrize('name', ['v9:2x2', 'v5e', 'v5e:2xtwo', ''])
def test_other_names_are_refused(name):
  with pytest.raises(ValueError, match='as in v5e:2x2. Received'):
    chips.parse_topology(name)


def test_the_clock_is_the_peak_rate_by_the_work_of_a_cycle():
  assert chips.CHIPS['v5e'].cycles_per_second == pytest.approx(1.5e9, rel=0.01)
  assert chips.CHIPS['v4'].cycles_per_second == pytest.approx(1.05e9, rel=0.01)
