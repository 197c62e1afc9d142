"""Work that fails in one process fails in all."""

import errno
import os

import pytest

from jcl import distributed
from jcl.storage.in_all import in_all, reason_of
from jcl.storage.sealed_folder import Damaged


@pytest.fixture
def told(monkeypatch):
  """Texts that this process tells the others, of which the third cannot write."""
  found = []
  exchanged = lambda text: (found.append(text), [text, '', 'No space left on device'])[1]
  monkeypatch.setattr(distributed, 'exchanged', exchanged)
  return found


def test_another_process_that_fails_is_named(told):
  done = []
  with pytest.raises(Damaged, match=r'^process 2: No space left on device$'):
    in_all(lambda: done.append(1))
  assert (done, told) == ([1], [''])


def test_the_own_failure_comes_first_and_the_others_hear_of_it(told):
  def fail():
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  with pytest.raises(OSError, match='Input/output error'):
    in_all(fail)
  assert told == ['Input/output error']


def test_one_process_alone_just_works():
  done = []
  in_all(lambda: done.append(1))
  assert done == [1]


def test_a_damage_says_itself_what_it_is():
  assert reason_of(Damaged('a.bin is missing')) == 'a.bin is missing'
  assert reason_of(ValueError('two\nlines')) == 'ValueError: two lines'
