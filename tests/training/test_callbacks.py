"""Callbacks are looked over before a run begins."""

import pytest

from jcl.errors import UserError
from jcl.training.callbacks import checked_callbacks


class Listener:
  def on_task(self, results):
    """Hears of every task."""


def test_what_listens_to_nothing_is_refused():
  listeners = [Listener()]
  assert checked_callbacks(listeners) is listeners
  with pytest.raises(UserError, match='callbacks holds a int without any of on_'):
    checked_callbacks([Listener(), 3])
  with pytest.raises(UserError, match='callbacks is a Listener; give a list of objects'):
    checked_callbacks(Listener())
