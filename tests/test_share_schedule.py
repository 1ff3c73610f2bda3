"""Entries of settings that change over a training."""

import pytest

from tokendrop_tf import errors, share_schedule


@pytest.mark.parametrize('shares', [[0.0], [0.0, 0.5, 0.999]])
def test_shares_that_rise_from_zero(shares):
  share_schedule.check_shares(shares, ('any',), 'form', 'remedy')


@pytest.mark.parametrize('shares', [[0.1], [0.0, 0.5, 0.5], [0.0, 1.0]])
def test_other_shares_are_refused(shares):
  entries = [f'{share}:x' for share in shares]
  with pytest.raises(errors.ConfigurationError) as caught:
    share_schedule.check_shares(shares, entries, 'a.b holds', 'Set a.b.')
  message = str(caught.value)
  assert message.startswith('a.b holds: shares of the training that begin')
  assert f'Received: {", ".join(entries)}. Set a.b.' in message
