"""What is known of the TPU chips, by the name of their generation.

Peak rates and memory are those of Google Cloud's pages on each generation. The
clock is the peak rate divided by the work of a cycle: 2 x 128 x 128 operations
in each of 4 matrix units a core; v6e has 4 units of 256 x 256.
"""

import dataclasses
import math

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip.

  Attributes:
    name: of the generation, as in a topology's name.
    hbm_bytes: memory of one chip.
    peak_flops: bfloat16 operations a second of one chip.
    cores: cores that share the chip and work as one device.
    unit_width: rows and columns of a matrix unit; a core has four units.
    accelerator_type: name of a slice, with the number of cores or chips left
      open.
    counts_cores: whether that number is of cores.
  """

  name: str
  hbm_bytes: int
  peak_flops: float
  cores: int
  unit_width: int
  accelerator_type: str
  counts_cores: bool = False

  @property
  def cycles_per_second(self) -> float:
    operations = 2 * self.unit_width**2 * 4 * self.cores
    return self.peak_flops / operations


CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 32 * _GIB, 275e12, 2, 128, 'v4-{}', True),
    Chip('v5e', 16 * _GIB, 197e12, 1, 128, 'v5litepod-{}'),
    Chip('v5p', 95 * _GIB, 459e12, 2, 128, 'v5p-{}', True),
    Chip('v6e', 32 * _GIB, 918e12, 1, 256, 'v6e-{}'),
  )
}


def parse_topology(name: str) -> tuple[Chip, int]:
  """Returns the chip of a topology, and how many there are.

  Args:
    name: generation and extent, for instance 'v5e:2x2' or 'v4:2x2x1'.

  Raises:
    ValueError: if it is no such name.

  Example:

      parse_topology('v5e:2x2')  # (Chip(name='v5e', ...), 4)
  """
  generation, _, extent = name.partition(':')
  sides = extent.split('x')
  if generation not in CHIPS or not all(side.isdigit() for side in sides):
    raise ValueError(
      'A topology must be a generation of '
      f'{", ".join(CHIPS)} and an extent, as in v5e:2x2. Received: {name}.'
    )
  return CHIPS[generation], math.prod(int(side) for side in sides)


def environment(name: str) -> dict[str, str]:
  """Returns the variables that let libtpu compile where no TPU is.

  Args:
    name: a topology, as in `parse_topology`.
  """
  chip, num_chips = parse_topology(name)
  size = num_chips * (chip.cores if chip.counts_cores else 1)
  return {
    # No TPU is opened, so several compilations may run at once.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': chip.accelerator_type.format(size),
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
  }
