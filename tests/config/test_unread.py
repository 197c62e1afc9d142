"""A setting that nothing reads is refused: such settings are found by recording what is read."""

import contextlib
import dataclasses
import json
import pathlib
from unittest import mock

import jax
import pytest
from absl import flags
from support import own_data, recorded, runs, slow, tiny

import jcl
from jcl import learning, methods
from jcl import workdir as workdirs
from jcl.backbones.files import hf
from jcl.batching.batch import layout
from jcl.batching.batch_shapes import rungs
from jcl.commands import command_line, config_flag
from jcl.config import (
  GIVEN,
  CheckpointConfig,
  Config,
  TrainConfig,
  check_read,
  number,
  only_with,
)
from jcl.errors import UserError
from jcl.preflight.footprint import footprint, shape_only
from jcl.step import sharding, train_step, trainable
from jcl.trained_run import TrainedRun
from jcl.training import experiment, run_output
from jcl.training.answer_format import shape_of


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
  ('closed_form', {'solver': 'klda'}),
  *(('closed_form', {'solver': solver, 'projection': 4000}) for solver in ('lda', 'ncm')),
]

# What a run reads of a method that neither hooks, plan nor loss look at.
OF_RUN = ('text_format', 'random_features', 'lora_dropout', 'teacher_path', 'teacher_family')


@pytest.mark.parametrize(
  ('name', 'given'),
  slow.but([one for one in VARIANTS if one[0] in ('replay', 'ewc', 'lora', 'maml')], VARIANTS),
  ids=lambda x: str(x) if x else '',
)
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
    for field in OF_RUN:
      getattr(made.method, field)
  assert found or not dataclasses.fields(made.method)
  for field in dataclasses.fields(made.method):
    value = other(made.method, field)
    if field.name in found | FILTERS or value is None:
      continue
    changed = dataclasses.replace(made.method, **{field.name: value})
    with pytest.raises(UserError, match=r'method\.'):
      experiment.check(dataclasses.replace(made, method=changed))


# Read in every run by the loop over tasks, as the next test but one sees.
LOOP = {
  'train.log_every', 'train.speed_every', 'train.max_bad_steps', 'train.keep_best',
  'train.gradient_norms_every',
  'train.optimizer_between_tasks', 'train.fsdp', 'evaluate.answer', 'evaluate.every_steps',
  'evaluate.every_epochs',
  *(f'checkpoint.{field.name}' for field in dataclasses.fields(CheckpointConfig)),
}  # fmt: skip
# Read in every run too, but of no effect in those in which they are refused.
WITHOUT_EFFECT = {
  'train.schedule_between_tasks', 'train.added_token_rate', 'stream.template', 'evaluate.answer',
}  # fmt: skip
VALUES = {
  'stream.template': '{x} = {y}', 'stream.chat_template': 'chatml', 'stream.path': 'a',
  'train.learning_rate': 1.0, 'train.trainable': None,
}  # fmt: skip


@pytest.fixture(scope='module')
def places(tmp_path_factory) -> dict[str, pathlib.Path]:
  """A manifest with dev and test splits, one of raw text, and a base model."""
  folder = tmp_path_factory.mktemp('unread')
  manifest = own_data.write(folder / 'own')
  raw = folder / 'raw' / 'manifest.json'
  raw.parent.mkdir()
  (raw.parent / 'a.txt').write_text('a b c d e f g h ' * 20)
  task = '{"name": "%s", "train": "a.txt", "test": "a.txt"}'
  raw.write_text(f'{{"tasks": [{task % "one"}, {task % "two"}]}}')
  base = own_data.base_model(folder / 'base', manifest)
  return {'own': manifest, 'raw': raw, 'base': base, 'cache': folder / 'cache'}


def scratch(method, **sections):
  sections['stream'] = {
    'max_train_per_task': 4,
    'max_test_per_task': 4,
    **sections.get('stream', {}),
  }
  return runs.config(method, **sections)


def raw_text(places):
  made = own_data.config(places['raw'], method='pretrain')
  made.stream.cache, made.stream.overlap, made.stream.max_length = str(places['cache']), 'keep', 8
  return made


RUNS = {
  'from scratch': lambda places: scratch('seq'),
  'a byte-pair tokenizer': lambda places: scratch('seq', backbone={'tokenizer': 'bpe'}),
  'added tokens': lambda places: scratch('lamol'),
  'adapters': lambda places: scratch('lora'),
  'adapters and old rows': lambda places: scratch('replay+olora'),
  'blocks': lambda places: scratch('expand', backbone={'layers': 4}),
  'penalties': lambda places: scratch('replay+ewc'),
  'a head': lambda places: scratch('derpp', backbone={'head': 'linear'}),
  'a head, and adapters': lambda places: scratch('lora', backbone={'head': 'cosine'}),
  'dev scores': lambda places: scratch('seq', evaluate={'every_epochs': 1}),
  'steps': lambda places: scratch('seq', train={'steps': 3, 'epochs': 5, 'schedule': 'wsd'}),
  'own files': lambda places: own_data.config(places['own'], evaluate={'every_steps': 1}),
  'a base model': lambda places: own_data.config(places['own'], places['base']),
  'added tokens of a base model': lambda places: own_data.config(
    places['own'], places['base'], 'lamol'
  ),
  'a tokenizer of another model': lambda places: own_data.config(
    places['own'], backbone={'tokenizer_path': str(places['base'])}
  ),
  'raw text': raw_text,
}


@pytest.mark.parametrize(
  'kind',
  slow.but(
    ('from scratch', 'a head, and adapters', 'added tokens of a base model', 'raw text'), RUNS
  ),
)
def test_a_shared_setting_that_a_run_does_not_read_is_refused(kind, places):
  """Every setting that no code was seen to read in this run is set, and must be refused."""
  made = RUNS[kind](places)
  with recorded.recorded() as found:
    parts = experiment.assemble(made)
    groups = recorded.trace(parts)
  found = {name for name in found if name.partition('.')[2] not in recorded.RATES}
  found |= LOOP | recorded.rates_with_effect(parts.config, groups)
  accepted = []
  for section, settings in recorded.SECTIONS.items():
    for field in dataclasses.fields(settings):
      name, now = f'{section}.{field.name}', getattr(getattr(made, section), field.name)
      value = VALUES.get(name, other(getattr(made, section), field))
      if value is None or (now != field.default and name in found):
        continue
      changed = dataclasses.replace(
        made, **{section: dataclasses.replace(getattr(made, section), **{field.name: value})}
      )
      said = refusal(changed, whole=name not in found)
      if name not in found and not said.startswith(name):
        accepted.append(name)
      if name in found - WITHOUT_EFFECT:
        assert not (said.startswith(f'{name} is') and 'nothing reads it' in said), said
  assert not accepted, f'nothing reads {accepted}, and nothing refuses them'


def refusal(made, whole):
  """The line that refuses a config, or its whole run; empty: it is taken."""
  try:
    experiment.check(made)
    if whole:
      experiment.assemble(made)
  except UserError as error:
    return str(error)
  return ''


@pytest.mark.slow
def test_the_loop_reads_what_is_left_to_it(tmp_path):
  made = scratch('seq', stream={'max_tasks': 1}, train={'steps': 1, 'epochs': 5})
  with recorded.recorded() as found:
    runs.run(made, tmp_path / 'run')
  assert LOOP - found == {'train.max_bad_steps'}  # read at a step that is not finite


def test_settings_of_files_are_refused_where_a_run_writes_none(tmp_path):
  made = scratch('seq', train={'log_every': 10})
  listener = type('Listener', (), {'on_step': print})()
  run_output.check_read(made, None, (), old=False)
  made.checkpoint.every_chunks = 3
  with pytest.raises(UserError, match=r'checkpoint\.every_chunks is 3, .*: the run has no workdir'):
    run_output.check_read(made, None, (), old=False)
  run_output.check_read(made, None, (), old=True)
  run_output.check_read(made, tmp_path, (), old=False)
  made = scratch('seq', train={'log_every': 3})
  with pytest.raises(UserError, match=r'train\.log_every is 3, .* no callback with on_step'):
    run_output.check_read(made, None, (), old=False)
  run_output.check_read(made, None, (listener,), old=False)


def test_the_front_door_refuses_them_before_anything_is_computed():
  stream = jcl.load_stream('synthetic', max_train_per_task=8, max_test_per_task=4)
  with pytest.raises(UserError, match=r'checkpoint\.keep_tasks is True, but nothing reads it'):
    jcl.learn(stream, checkpoint=jcl.CheckpointConfig(keep_tasks=True), quiet=True)
  with pytest.raises(UserError, match=r'stream\.path is .own., .* name other than .synthetic.'):
    jcl.load_stream('synthetic', 'own')


def test_a_share_is_refused_where_every_task_has_the_split(places):
  made = own_data.config(places['own'], evaluate={'every_epochs': 1})
  for split in ('test', 'dev'):
    changed = dataclasses.replace(
      made, stream=dataclasses.replace(made.stream, **{f'{split}_fraction': 0.3})
    )
    with pytest.raises(UserError, match=rf'{split}_fraction is 0\.3, .* has a {split} split'):
      experiment.assemble(changed)
    assert experiment.assemble(changed, old=True)


def test_a_run_that_has_begun_goes_on_with_and_without_such_a_setting(tmp_path):
  """An earlier jcl took it; it decides nothing, so its value may stand or be left out."""
  old = scratch('seq', train={'adapter_learning_rate': 0.5})
  plain = scratch('seq')
  workdirs.open_workdir(str(tmp_path / 'run'), old)
  for made in (old, plain):
    with mock.patch.object(learning, 'Loop', side_effect=runs.Killed), pytest.raises(runs.Killed):
      learning.run(made, tmp_path / 'run', quiet=True)
    with pytest.raises(UserError, match='no snapshot yet'):
      TrainedRun(made, tmp_path / 'run')
  with pytest.raises(UserError, match=r'train\.adapter_learning_rate is 0\.5, but nothing reads'):
    learning.run(old, tmp_path / 'new', quiet=True)
  assert not (tmp_path / 'new').exists()


MINE = """
from jcl.config import Config, StreamConfig, TrainConfig
from jcl.methods import settings

def get_config(method='seq'):
  return Config(
    method=settings(method), stream=StreamConfig(name='synthetic'),
    train=TrainConfig(learning_rate=1e-2, adapter_learning_rate=2e-3, epochs=3),
  )
"""


def parsed(file, *arguments, several=False):
  given = flags.FlagValues()
  arguments = [f'--config={file}', *arguments]
  config_flag.define(given, arguments, several)
  command_line.parse(given, arguments)
  return given


def test_what_a_config_file_sets_for_another_method_is_left_out_with_a_line(tmp_path, capsys):
  file = tmp_path / 'mine.py'
  file.write_text(MINE)
  train = config_flag.read(parsed(f'{file}:lora', '--config.train.steps=7')).train
  assert (train.learning_rate, train.adapter_learning_rate, train.epochs) == (None, 2e-3, 5)
  said = capsys.readouterr().err
  assert f'note: {file}:lora sets train.learning_rate to 0.01, which nothing reads here' in said
  assert said.count('note:') == 2
  both = parsed(f'{file}:lora', '--config.train.learning_rate=0.1')
  with pytest.raises(UserError, match=r'train\.learning_rate is 0\.1, but nothing reads it here'):
    experiment.check(config_flag.read(both))


def test_a_flag_of_a_comparison_holds_for_the_methods_that_read_it(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(MINE)
  rate = '--config.train.learning_rate=0.1'
  seq, lora = config_flag.read_each(parsed(file, rate, several=True), ['seq', 'lora'])
  assert (seq.train.learning_rate, lora.train.learning_rate) == (0.1, None)
  alone = config_flag.read_each(parsed(file, rate, several=True), ['lora', 'olora'])
  for made in alone:
    with pytest.raises(UserError, match=r'train\.learning_rate is 0\.1, but nothing reads'):
      experiment.check(made)


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
          section, _, rest = name.removeprefix('config.').rpartition('.')
          if '.' not in name:
            assert rest in names, name
          else:
            assert hasattr(getattr(sections[0], section) if section else sections[0], rest), name


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


def test_the_order_of_one_task_is_refused_where_the_data_are_ones_own(places):
  one = json.loads(places['own'].read_text())
  one['tasks'] = one['tasks'][:1]
  file = places['own'].parent / 'one.json'
  file.write_text(json.dumps(one))
  made = own_data.config(file)
  made.stream.order_seed = 3
  with pytest.raises(UserError, match=r'stream\.order_seed is 3, .* the data has one task'):
    experiment.assemble(made)
  made.stream.path, made.stream.max_tasks = str(places['own']), 1  # the seed draws the task
  assert len(experiment.assemble(made).stream) == 1


@pytest.mark.parametrize(
  'given', [{'optimizer_between_tasks': 'carried'},
            {'schedule_between_tasks': 'continue', 'schedule': 'cosine'}],
)  # fmt: skip
def test_what_happens_between_tasks_is_refused_where_there_is_one(given):
  made = scratch('seq', stream={'max_tasks': 1}, train=given)
  with pytest.raises(UserError, match=r'between_tasks is .* reads it here: the run has one task'):
    experiment.assemble(made)
  assert experiment.assemble(made, old=True)
  made.stream.max_tasks = 2
  assert experiment.assemble(made)


@pytest.mark.parametrize(
  ('trainable', 'setting', 'why'),
  [('^head/', 'learning_rate', 'a head alone trains'),
   ('^layers/', 'head_learning_rate', 'no head trains'),
   ('scale$,bias$', 'weight_decay', 'biases and norms alone'),
   ('scale$,bias$', 'l1', 'biases and norms alone'),
   ('scale$,bias$', 'l2', 'biases and norms alone')],
)  # fmt: skip
def test_what_no_parameter_in_training_depends_on_is_refused(trainable, setting, why):
  made = scratch('seq', backbone={'head': 'linear'}, train={setting: 0.5})
  others = {'trainable': tuple(trainable.split(','))}
  experiment.assemble(made)
  for name in ('learning_rate', 'head_learning_rate'):
    if name != setting:
      others[name] = getattr(TrainConfig, name)
  made.train = dataclasses.replace(made.train, **others)
  with pytest.raises(UserError, match=rf'train\.{setting} is 0\.5, .* {why}'):
    experiment.assemble(made)
  assert experiment.assemble(made, old=True)
  made.from_file = frozenset({f'train.{setting}'})  # which serves other runs too
  assert f'the config file says train.{setting} is' in experiment.assemble(made).notes[-1]


def test_the_rate_of_added_tokens_is_refused_where_their_rows_are_frozen():
  made = scratch('lamol', train={'added_token_rate': 2.0, 'trainable': ('layers',)})
  with pytest.raises(UserError, match=r'added_token_rate is 2\.0, .* no embedding row trains'):
    experiment.assemble(made)


@pytest.mark.parametrize('name', ['seq', 'lora+lamol', 'lamol+olora', 'expand+lamol'])
def test_the_rate_of_added_tokens_is_refused_where_there_are_none_or_they_are_frozen(name):
  made = scratch(name, backbone={'layers': 4}, train={'added_token_rate': 2.0})
  with pytest.raises(UserError, match=r'added_token_rate is 2\.0, .* and trains their rows'):
    experiment.assemble(made)
  experiment.check(made, old=True)


def test_how_added_tokens_start_is_refused_where_the_model_has_them(places, tmp_path):
  made = own_data.config(places['own'], places['base'], 'lamol')
  made.backbone.added_token_init = 'mean'
  parts = experiment.assemble(made)
  folder = tmp_path / 'has'
  hf.save(folder, shape_of(parts)._replace(params=parts.weights))
  made.backbone.path = str(folder)
  with pytest.raises(UserError, match=r"token_init is 'mean', .* has these tokens already"):
    experiment.assemble(made)


def test_a_config_file_says_what_of_it_nothing_reads_once_the_model_is_known(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(MINE)
  made = config_flag.read(parsed(f'{file}:seq', '--config.backbone.head=linear'))
  assert {'train.learning_rate', 'stream.order_seed'} <= made.from_file
  assert 'backbone.head' not in made.from_file
