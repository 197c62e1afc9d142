"""The collector of cycles is paused while rows are read, and as it was afterwards."""

import gc

import pytest

from jcl import streams
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import registry
from jcl.streams.many_objects import uncollected
from jcl.streams.synthetic import read


@uncollected()
def refuse():
  assert not gc.isenabled()
  raise UserError('a row')


@pytest.mark.parametrize('enabled', [True, False])
def test_the_collector_is_as_it_was_afterwards_even_after_an_error(enabled):
  (gc.enable if enabled else gc.disable)()
  try:
    with pytest.raises(UserError):
      refuse()
    assert gc.isenabled() == enabled
  finally:
    gc.enable()


def test_it_is_paused_while_a_stream_is_built(monkeypatch):
  seen = []

  def reader(config):
    seen.append(gc.isenabled())
    return read(config)

  monkeypatch.setattr(registry, 'find_reader', lambda name: reader)
  streams.load(StreamConfig())
  assert seen == [False]
  assert gc.isenabled()
