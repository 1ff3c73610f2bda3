import os
import signal

import pytest

from tokendrop_tf.run import signals


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_until_it_is_asked_for(number):
  with signals.StopRequest() as request:
    request.check()
    os.kill(os.getpid(), number)
    with pytest.raises(signals.Stopped) as caught:
      request.check()
  assert caught.value.signal_number == number


def test_where_nothing_is_lost_a_signal_ends_at_once():
  with signals.StopRequest() as request, request.at_once():
    with pytest.raises(signals.Stopped):
      os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_ctrl_c_does_not_wait():
  with signals.StopRequest():
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_mean_what_they_meant():
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with signals.StopRequest():
    assert signal.getsignal(signal.SIGTERM) != before[0]
  after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert after == before
