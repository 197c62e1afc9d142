"""A setting that nothing reads is refused: such settings are found by recording what is read."""

import contextlib
import dataclasses
import typing
from unittest import mock

import jax
import pytest
from support import runs, tiny

from jcl import methods
from jcl.batching.batch import layout, rungs
from jcl.config import GIVEN, Config, check_read, number, only_with
from jcl.errors import UserError
from jcl.preflight.footprint import footprint, shape_only
from jcl.step import sharding, train_step, trainable
from jcl.training import experiment


@contextlib.contextmanager
def reads(settings):
  """Within it, the names of the fields of `settings` that are read, wherever that happens."""
  found, fields = set(), {field.name for field in dataclasses.fields(settings)}

  def recording(self, name):
    if self is settings and name in fields:
      found.add(name)
    return object.__getattribute__(self, name)

  with mock.patch.object(type(settings), '__getattribute__', recording):
    yield found


def other(settings, field):
  """Another value of a field, within its bounds."""
  value, choices = getattr(settings, field.name), field.metadata.get('choices', ())
  if choices:
    return next((one for one in choices if one != value), None)
  if isinstance(value, bool):
    return not value
  if isinstance(value, int):
    return value + 1
  if isinstance(value, float):
    return 0.25 if value != 0.25 else 0.5
  return 'x' if isinstance(value, str) else None


def traced(parts):
  """Traces the objective and the step's end in the first task, as the method makes them."""
  stream, method = parts.stream, parts.method
  tools = shape_only(parts.tools)

  def step(params):
    memory = method.init(params, stream, tools)
    memory, params = method.before_task(memory, params, stream.tasks[0], tools)
    trained, frozen, _ = trainable.split(params, (('.*', True),))
    plan = method.plan(memory, stream.tasks[0])
    rows = [row for e in stream.tasks[0].train[:4] for row in parts.text.rows(e)]
    batch = layout(rows, 1, rungs([rows], 1, 16)[0], tiny.keys(len(rows)), plan.tables)
    fn = train_step.make_gradient(method, parts.loss_fn, sharding.make_mesh(1))
    groups = train_step.Groups.of(plan.groups)
    out = fn(trained, frozen, memory['teacher'], {}, batch, groups)
    return out, method.after_step and method.after_step(memory['teacher'], params, 0)

  jax.eval_shape(step, jax.eval_shape(parts.backbone.init, jax.random.key(0)))


# Of samples that parse, which no sample does where nothing is computed.
FILTERS = {'require_known_label', 'deduplicate'}
VARIANTS = [
  *((name, {}) for name in methods.BUILT_IN),
  ('replay', {'level': 'batch'}),
  ('replay', {'level': 'batch', 'select': 'adversarial'}),
  ('derpp', {'targets': 'stored'}),
  ('lora', {'merge': 'ties'}),
  ('lora', {'stack': True}),
]


@pytest.mark.parametrize(('name', 'given'), VARIANTS, ids=lambda x: str(x) if x else '')
def test_what_no_hook_plan_or_loss_reads_is_refused(name, given):
  """The method is built, and its hooks run on shapes: what they do not read must be refused."""
  made = runs.config(name)
  if hasattr(made.method, 'gamma'):
    made.method.gamma = 1.0  # of the one example that a footprint has
  for field, value in given.items():
    setattr(made.method, field, value)
  parts = experiment.assemble(made)
  with reads(made.method) as found:
    parts = dataclasses.replace(parts, method=methods.make(parts.backbone, made.method))
    made.method.check_run(made.scenario, parts.tools)
    footprint(parts)
    traced(parts)
    of_run = [
      made.method.text_format,
      made.method.lora_dropout,
      made.method.teacher_path,
      made.method.teacher_family,
    ]
  assert len(of_run) == 4
  assert found or not dataclasses.fields(made.method)
  for field in dataclasses.fields(made.method):
    value = other(made.method, field)
    if field.name in found | FILTERS or value is None:
      continue
    changed = dataclasses.replace(made.method, **{field.name: value})
    with pytest.raises(UserError, match=r'method\.'):
      changed.check()


REFUSED = [
  ('replay', 'method.candidates', 5, "read with select 'adversarial'"),
  ('derpp', 'method.replay_ratio', 0.5, "read with level 'dataset'"),
  ('reptile', 'method.replay_ratio', 0.5, "read with level 'dataset'"),
  ('lora', 'method.density', 0.5, "read with merge 'ties' or 'dare'"),
  ('derpp', 'method.stored_logits_mb', 7, "read with targets 'stored'"),
  ('seq', 'adversarial.weight', 2.0, 'read with epsilon given'),
  ('seq', 'train.decay_fraction', 0.5, "read with schedule 'wsd'"),
  ('seq', 'train.head_learning_rate', 0.5, r'read with backbone\.head given'),
  ('seq', 'backbone.pooling', 'mean', r'read with backbone\.head given'),
  ('seq', 'train.schedule_between_tasks', 'continue', 'or with warmup_fraction given'),
]


@pytest.mark.parametrize(('name', 'path', 'value', 'line'), REFUSED)
def test_the_line_names_the_setting_and_what_would_make_it_read(name, path, value, line):
  made = runs.config(name)
  section, field = path.split('.')
  setattr(getattr(made, section), field, value)
  with pytest.raises(UserError, match=line) as refused:
    experiment.check(made)
  assert str(refused.value).startswith(f'{path} is {value!r}, but nothing reads it here')


@pytest.mark.parametrize('name', ['lora', 'olora', 'expand'])
def test_patterns_are_refused_where_the_method_says_what_trains(name):
  made = runs.config(name, train={'trainable': ('lora',)})
  with pytest.raises(UserError, match=r'train\.trainable is .* but the method says what trains'):
    footprint(experiment.assemble(made))


def test_a_setting_names_its_ways_and_conditions_are_names_of_settings():
  sections = [Config(method=methods.settings('seq'))]
  sections += [getattr(sections[0], f.name) for f in dataclasses.fields(Config)]
  sections += [methods.settings(name) for name in methods.BUILT_IN]
  for one in (s for s in sections if dataclasses.is_dataclass(s)):
    names = {field.name for field in dataclasses.fields(one)}
    for field in dataclasses.fields(one):
      for way in field.metadata.get('read_with', ()):
        for name in way:
          section, _, rest = name.rpartition('.')
          known = typing.get_type_hints(type(getattr(sections[0], section))) if section else names
          assert rest in known, name


def test_a_default_is_never_refused_and_any_way_that_holds_is_enough():
  @dataclasses.dataclass
  class Chosen:
    mode: str = 'a'
    rate: float = only_with(number(1.0, least=0), {'mode': 'b'}, {'share': GIVEN})
    share: float = 0.0

  check_read(Chosen())
  check_read(Chosen('b', 2.0))
  check_read(Chosen('a', 2.0, 0.1))
  with pytest.raises(UserError, match=r"rate is 2\.0, .* read with mode 'b', or with share given"):
    check_read(Chosen('a', 2.0))
