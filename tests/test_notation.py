"""Lists as users write them, in flags, in Python and in manifests."""

import dataclasses
from collections.abc import Sequence

import pytest
from support import runs

from jcl import methods
from jcl.config import check_values, set_sequences
from jcl.errors import UserError
from jcl.methods.chosen import chosen_method
from jcl.notation import parse
from jcl.training import experiment


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('q,v', ('q', 'v')), ("('q','v')", ('q', 'v')), ('["q", "v"]', ('q', 'v')),
    ('(q,v)', ('q', 'v')), ('[q, v]', ('q', 'v')), (' q , v ', ('q', 'v')), ("'q','v'", ('q', 'v')),
    ('q', ('q',)), ('q,', ('q',)), ("('q',)", ('q',)), ("('q')", ('q',)), ('"q"', ('q',)),
    ('', ()), ('()', ()), ('[]', ()), ("'a,b',c", ('a,b', 'c')), ("'a,b'", ('a,b',)),
    # patterns keep their own commas and brackets
    ('!embed,.*', ('!embed', '.*')), ('w{1,2},b', ('w{1,2}', 'b')), ('[ab].*', ('[ab].*',)),
    ('(embed|head)/.*', ('(embed|head)/.*',)), ('[ab]', ('[ab]',)), ('(a|b)', ('(a|b)',)),
    (r'a\,b,c', (r'a\,b', 'c')), ('(a,b)/x,(c|d)', ('(a,b)/x', '(c|d)')),
  ],
)  # fmt: skip
def test_texts(text, wanted):
  assert parse(text, str) == wanted


@pytest.mark.parametrize(
  ('text', 'kind', 'wanted'),
  [
    ('1,2', int, (1, 2)), ('(1, 2)', int, (1, 2)), ('[1]', int, (1,)), ('(1)', int, (1,)),
    ("['1','2']", int, (1, 2)), ('7', int, (7,)), ('1e-3,.5', float, (1e-3, 0.5)), ('', float, ()),
  ],
)  # fmt: skip
def test_numbers(text, kind, wanted):
  assert parse(text, kind) == wanted


@pytest.mark.parametrize(
  ('text', 'kind', 'says'),
  [
    ('q,,v', str, 'empty entry'), (',q', str, 'empty entry'), (',', str, 'empty entry'),
    ("(('q','v'),)", str, 'list within a list'), ('1,x', int, "'x' is no whole number"),
    ('1.5', int, "'1.5' is no whole number"), ('a,b', float, "'a' is no number"),
  ],
)  # fmt: skip
def test_what_is_no_list_is_refused(text, kind, says):
  with pytest.raises(ValueError, match=says):
    parse(text, kind)


@dataclasses.dataclass
class Own(methods.Settings):
  """Settings of a method from outside, with every kind of list."""

  names: tuple[str, ...] = ()
  groups: list[str] = dataclasses.field(default_factory=list)
  layers: tuple[int, ...] = (1,)
  scales: Sequence[float] = (1.0,)
  pair: tuple[float, str] = (1.0, 'a')


def test_a_settings_class_may_have_lists_of_every_kind():
  own = Own('a,b', 'a,b', '0,3', 2)
  set_sequences(own)
  assert own == Own(('a', 'b'), ['a', 'b'], (0, 3), (2,))
  check_values(own)
  for field, wrong, says in (
    ('layers', '0,x', r"layers is '0,x': 'x' is no whole number"),
    ('scales', 'fast', "scales is 'fast': 'fast' is no number"),
    ('names', 'a,,b', 'empty entry'),
  ):
    with pytest.raises(UserError, match=says):
      set_sequences(dataclasses.replace(own, **{field: wrong}))
  for field, wrong in (('layers', (0.5,)), ('scales', ('1',)), ('groups', [1]), ('names', 3)):
    with pytest.raises(UserError, match=f'{field} is .*; it must be a '):
      check_values(dataclasses.replace(own, **{field: wrong}))


@pytest.mark.parametrize('given', ['q,v', ['q', 'v'], ('q', 'v'), "('q', 'v')"])
def test_lists_in_python(given):
  config = runs.config('lora')
  config.method = chosen_method('lora', {'targets': given})
  config.train.trainable = '.*'
  experiment.check(config)
  assert (config.method.targets, config.train.trainable) == (('q', 'v'), ('.*',))
