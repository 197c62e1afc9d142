"""Every field of every settings dataclass against values that mean nothing; found by looking."""

import dataclasses
import functools
import itertools
import math

import pytest
from support import runs

from jcl import methods, notation
from jcl.config import check_values
from jcl.errors import UserError
from jcl.training import experiment

# What means something although it looks wrong.
MEANT = {
  'stream.order_seed': -1, 'method.least_log_probability': -1,
  'method.replay.least_log_probability': -1,
}  # fmt: skip
NEVER = {
  int: (math.nan, math.inf, -math.inf, -1, 1.5, 2**70, -(2**70), 10**5000, 'x', None, True, []),
  float: (math.nan, math.inf, -math.inf, -1, 1e308, 1e-300, 10**5000, 'x', None, False, {}),
  float | None: (math.nan, math.inf, -1, 1e308, 1e-300, 10**5000, 'x', True, {}),
  bool: (0, 1, 'true', None, math.nan),
  str: (0, None, b'x', 'a\0b', '\ud800', ['x']),
  tuple[str, ...]: (0, None, 'x,,y', (1,), ('a\0',), [None]),
  tuple[float, ...]: (None, 'x', (math.nan,), (0.1, -1.0), (1e308,), [None], (True,)),
}


def fields(settings, path=''):
  """(dotted name, type) of every field, in groups too."""
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if dataclasses.is_dataclass(value):
      yield from fields(value, f'{path}{field.name}.')
    else:
      yield path + field.name, field.type


ALL = {
  f'{name}: {path}': (name, path, kind)
  for name in (*methods.BUILT_IN, 'replay+ewc')
  for path, kind in fields(runs.config(name))
  if name == 'seq' or path.startswith('method.')
}


@pytest.mark.parametrize('case', ALL)
def test_a_value_that_means_nothing_is_refused_by_the_name_of_its_field(case):
  name, path, kind = ALL[case]
  *groups, field = path.split('.')
  for value in NEVER[kind]:
    if MEANT.get(path) == value:
      continue
    config = runs.config(name)
    setattr(functools.reduce(getattr, groups, config), field, value)
    with pytest.raises(UserError) as error:
      experiment.check(config)
    assert path in str(error.value), f'{value!r}: {error.value}'
    assert 'must be' in str(error.value) or 'give' in str(error.value)
    assert '\n' not in str(error.value)
    assert len(str(error.value)) < 300


def test_every_kind_of_field_is_tried_and_no_method_is_left_out():
  assert {kind for *_, kind in ALL.values()} == set(NEVER)
  assert {name for name, *_ in ALL.values()} >= {
    name for name in methods.BUILT_IN if dataclasses.fields(methods.settings(name))
  }
  assert len(ALL) > 100


@pytest.mark.parametrize('section', ['stream', 'backbone', 'train', 'evaluate', 'checkpoint'])
def test_a_group_of_settings_that_is_none_is_refused(section):
  config = runs.config('seq')
  setattr(config, section, {'epochs': 3})
  with pytest.raises(UserError, match=f'{section} is .*; it must be a group of settings'):
    experiment.check(config)


GOOD = [
  '.*', 'embed', '^layers/(q|v)/', r'layers/[0-9]+/', '(q_proj|v_proj)$', r'(.*\.)?(q_proj)$',
  r'model\.layers\.\d+\.(?:self_attn)\.(?:q_proj|k_proj)', '[(]*+x', r'\(*x', '[])*]+',
]  # fmt: skip
BAD = ['[', '(', '*', 'a**', '(a+)+$', '(a|a)*b', '(a?){40}', '.*' * 7, 'a?' * 30, '[[a]', '(?<x']


@pytest.mark.parametrize('pattern', GOOD)
def test_patterns_that_end_are_taken(pattern):
  assert notation.regex_fault(pattern) == ''


@pytest.mark.parametrize('pattern', BAD)
def test_patterns_that_are_none_or_may_not_end_are_refused(pattern):
  fault = notation.regex_fault(pattern)
  assert 'no regular expression' in fault or 'forever' in fault


def test_no_pattern_that_is_taken_is_slow():
  """All short patterns of repeats on a name that they cannot match: each is tried, and ends."""
  import re

  parts = ('.*', '.+', 'a?', '(a|b)?', r'\w+')
  name = 'a' * 40 + '!'
  for count in (1, 2, 3, 6):
    for pattern in itertools.islice(
      itertools.product(parts, repeat=count), 0, None, 97 if count > 3 else 1
    ):
      text = ''.join(pattern)
      if not notation.regex_fault(text):
        assert re.fullmatch(text + 'x', name) is None


def test_annotations_that_are_text_are_types_too():
  """A module with `from __future__ import annotations` is checked like any other."""
  made = dataclasses.make_dataclass('Lazy', [('count', 'int', 3), ('names', 'tuple[str, ...]', ())])
  check_values(made(), 'method.')
  with pytest.raises(UserError, match=r"method\.count is 'x'; it must be a whole number"):
    check_values(made(count='x'), 'method.')
  with pytest.raises(UserError, match=r'method\.names is \(3,\); it must be a tuple of texts'):
    check_values(made(names=(3,)), 'method.')
