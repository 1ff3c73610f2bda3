"""Rows as they were before masking.

Letters: B batch, S sequence length.
"""

import numpy as np


def unmask(batch: dict[str, np.ndarray]) -> np.ndarray:
  """Returns the word ids as they were before masking, int32 [B, S].

  Args:
    batch: features of the data loader.
  """
  ids = batch['input_word_ids'].copy()
  rows, slots = np.nonzero(batch['masked_lm_weights'])
  places = batch['masked_lm_positions'][rows, slots]
  ids[rows, places] = batch['masked_lm_ids'][rows, slots]
  return ids
