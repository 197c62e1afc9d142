"""Figures of a plan: worked by hand, of a real run, and of XLA where loops are unrolled."""

import functools
import gc
import json
import re
import resource

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import external, launchers, runs
from support.config_folder import SMALL, folder, values

from jcl import methods
from jcl.backbones import blocked_attention
from jcl.batching.batch import Shape
from jcl.config import Config, TrainConfig
from jcl.errors import UserError
from jcl.methods import Method
from jcl.methods.seq import Seq
from jcl.preflight import checks, cost, first_step
from jcl.preflight import page as sections
from jcl.step import flops, sharding
from jcl.training import experiment

LLAMA_3_8B = {
  'model_type': 'llama', 'vocab_size': 128256, 'hidden_size': 4096, 'num_hidden_layers': 32,
  'num_attention_heads': 32, 'num_key_value_heads': 8, 'intermediate_size': 14336,
  'rope_theta': 500000.0, 'max_position_embeddings': 8192, 'tie_word_embeddings': False,
  'rms_norm_eps': 1e-5,
}  # fmt: skip
MATRICES = 96 * 32 + 3 * (
  2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
)  # embedding; q, o, k, v, feed-forward
NORMS = (2 * 3 + 1) * 32
BIG = 8_030_261_248


def config(path: str, method: str = 'seq', **train) -> Config:
  made = Config(method=methods.settings(method), train=TrainConfig(batch_size=8, **train))
  made.backbone.path = path
  return made


call = functools.partial(launchers.call, 'plan', '--config=configs/quickstart.py:seq')


def xla(fn, *args) -> float:
  return jax.jit(fn).lower(*args).compile().cost_analysis()['flops']


def test_a_scan_counts_every_turn_inside_and_outside_of_what_it_stands_in():
  square = jax.ShapeDtypeStruct((32, 32), np.float32)

  def inner(x, turns):
    return jax.lax.scan(lambda c, _: (c @ c, None), x, length=turns)[0]

  def outer(x):
    body = jax.checkpoint(lambda c, _: (jax.jit(inner, static_argnums=1)(c, 3), None))
    return jax.lax.scan(body, x, length=5)[0]

  product = 2 * 32**3
  assert flops.count(outer, square) == (0, 15 * product)
  assert xla(lambda x: inner(x, 3), square) < 1.01 * product  # why XLA's own sum will not do
  taken_twice = flops.count(jax.value_and_grad(lambda x: outer(x).sum()), square).whole
  # A forward pass, the one that is made again for all but nothing, and two products a turn back.
  assert 4 * 15 * product <= taken_twice < 4.1 * 15 * product
  unused = lambda x: (outer(x), x + 1)[1]
  assert flops.count(unused, square) == (0, 32 * 32)
  mapped = jax.shard_map(
    lambda x: jax.lax.psum(inner(x, 3), 'data'), mesh=sharding.make_mesh(1),
    in_specs=sharding.WHOLE, out_specs=sharding.WHOLE,
  )  # fmt: skip
  assert flops.count(lambda x: mapped(x) + 1, square) == (3 * product, 32 * 32)


@pytest.mark.slow
@pytest.mark.parametrize('microbatches', [1, 2])
def test_a_step_costs_what_xla_counts_without_loops(microbatches, tmp_path, monkeypatch):
  made = config(folder(tmp_path, SMALL), microbatches=microbatches)
  now = first_step.outline(made, sharding.make_mesh(1), 16)
  counted = sum(flops.count(now.parts.train_step(), *now.arguments))
  rolled = xla(now.parts.train_step(), *now.arguments)
  monkeypatch.setattr(flax.linen, 'scan', functools.partial(flax.linen.scan, unroll=3))
  monkeypatch.setattr(jax.lax, 'scan', functools.partial(jax.lax.scan, unroll=True))
  now = first_step.outline(made, sharding.make_mesh(1), 16)
  unrolled = xla(now.parts.train_step(), *now.arguments)
  assert rolled < 0.7 * unrolled
  assert abs(counted / unrolled - 1) < 0.05


def test_a_big_model_costs_what_the_formula_says_and_takes_no_memory(tmp_path):
  gc.collect()
  before = sum(x.nbytes for x in jax.live_arrays())
  now = first_step.outline(config(folder(tmp_path, LLAMA_3_8B)), sharding.make_mesh(1), 2048)
  said = cost.operations(now).values['all_devices']
  seen = (1 + blocked_attention.BLOCK / 2048) / 2  # of a line's keys: those up to a block's end
  tokens, attention = 8 * 2048, seen * 4 * 32 * 2048 * 4096  # scores and values
  forward = tokens * (2 * (BIG - 128256 * 4096) + attention)
  assert abs(said['forward'] / forward - 1) < 0.02
  logits = tokens * 2 * 128256 * 4096  # go in chunks, and are computed again for the gradient
  scores = tokens * attention / 2  # likewise
  assert abs(said['backward'] / (2 * forward + logits + scores) - 1) < 0.02
  assert 10 * BIG < said['optimizer'] < 40 * BIG
  assert sum(x.nbytes for x in jax.live_arrays()) - before < 1e5


@pytest.mark.slow
def test_twice_the_batch_or_layers_cost_twice_as_much(tmp_path):
  def said(batch_size=8, **more):
    made = config(folder(tmp_path, SMALL, **more))
    made.train.batch_size = batch_size
    now = first_step.outline(made, sharding.make_mesh(1), 16)
    return cost.operations(now).values['all_devices']

  one, twice = said(), said(batch_size=16)
  deeper, deepest = said(num_hidden_layers=6), said(num_hidden_layers=9)
  assert abs(twice['forward'] / one['forward'] - 2) < 0.01
  assert abs(twice['backward'] / one['backward'] - 2) < 0.01
  for part in one:
    added = deeper[part] - one[part]
    assert deepest[part] - deeper[part] == pytest.approx(added)


def test_bytes_are_those_worked_by_hand(tmp_path):
  said = values(config(folder(tmp_path, SMALL)))
  size = 4 * (MATRICES + NORMS)
  device = said['memory']['per_device']
  assert said['assumed']['parameters'] == MATRICES + NORMS
  assert device['parameters'] == device['gradients'] == device['start_of_task'] == size
  assert device['optimizer'] == 2 * size + 4  # and a count
  assert device['teacher'] == 0
  assert device['batch'] == 8 * (16 * 4 + 4 + 1 + 1 + 4 + 8) + 8 * 16 * 4 * 4
  assert device['activations'] > 0
  assert device['total'] == sum(v for k, v in device.items() if k != 'total')
  half = values(config(folder(tmp_path, SMALL), trainable=('!embed', '.*')))['memory']['per_device']
  assert half['parameters'] == size
  assert half['gradients'] == size - 4 * 96 * 32


def test_a_teacher_counts_whatever_it_is(tmp_path, monkeypatch):
  init = lambda params, stream, tools: {'teacher': {'old': params, 'head': jnp.zeros((3, 5))}}
  teaching = Method(init, loss_fn=None, after_step=lambda teacher, params, step: (teacher, params))
  monkeypatch.setattr(Seq, 'build', lambda *_: teaching)
  device = values(config(folder(tmp_path, SMALL)))['memory']['per_device']
  assert device['teacher'] == 4 * (MATRICES + NORMS + 15)
  assert device['start_of_task'] == device['parameters'] + device['teacher']


def test_a_method_that_computes_before_its_first_task_is_refused_in_words(tmp_path, monkeypatch):
  look = lambda params, stream, tools: {
    'teacher': {},
    'sum': float(jax.tree.leaves(params)[0].sum()),
  }
  monkeypatch.setattr(Seq, 'build', lambda *_: Method(look))
  with pytest.raises(UserError, match='seq computes with the parameters'):
    first_step.outline(config(folder(tmp_path, SMALL)), sharding.make_mesh(1), 16)


OUTLINED = ('lamol',)  # the other methods are slow


@pytest.mark.parametrize(
  'method',
  [
    pytest.param(m, marks=() if m in OUTLINED else pytest.mark.slow)
    for m in methods.BUILT_IN
    if methods.settings(m).takes_steps
  ],
)
def test_the_outline_is_what_the_loop_hands_to_its_step(method, tmp_path):
  made = runs.config(method)
  now = first_step.outline(made, sharding.make_mesh(1))
  loop = runs.Loop(experiment.assemble(made, sharding.make_mesh(1)), tmp_path, quiet=True)

  class Seen(Exception):
    pass

  def step(*arguments):
    shape = lambda x: (jnp.shape(x), jnp.asarray(x).dtype)
    jax.tree.map(lambda a, x: np.testing.assert_equal(shape(x), (a.shape, a.dtype)), now.arguments,
                 arguments)  # fmt: skip
    assert jax.tree.structure(now.arguments) == jax.tree.structure(arguments)
    gc.collect()
    loop.held = sum(x.nbytes for x in jax.live_arrays()) - before
    raise Seen

  loop.trainer.train_step = step
  loop.evaluate = lambda run, task: run
  real = loop.before_task

  def before_task(run, task):
    loop.start = real(run, task)
    return loop.start

  loop.before_task = before_task
  loop._save = lambda run: None
  gc.collect()
  before = sum(x.nbytes for x in jax.live_arrays())
  with pytest.raises(Seen):
    loop.run()
  device = cost.memory(now).values['per_device']
  resident = sum(device[k] for k in ('parameters', 'optimizer', 'teacher', 'start_of_task'))
  # A teacher that is the model itself stands beside it only once the model has moved on.
  own = {id(x) for x in jax.tree.leaves(loop.start.params)}
  teacher = jax.tree.leaves(loop.start.memory['teacher'])
  resident -= sum(x.nbytes for x in teacher if id(x) in own)
  assert resident <= loop.held <= resident + 6 * device['batch']


def test_a_batch_is_that_of_the_stream_or_the_one_given(tmp_path):
  made = runs.config('lamol', train={'microbatches': 2})
  own = first_step.outline(made, sharding.make_mesh(1))
  assert own.source == f'largest of task {own.parts.stream.tasks[0].name}, synthetic'
  assert own.shape.rows == 2 * made.train.batch_size
  assert own.batch.tokens.shape == (own.shape.rows, own.shape.tokens)
  given = first_step.outline(made, sharding.make_mesh(1), 32, 3)
  assert given.shape == Shape(32, 32, 48)
  assert given.parts.decoder_config == own.parts.decoder_config
  bare = first_step.outline(config(folder(tmp_path, SMALL), 'lamol'), sharding.make_mesh(1), 32)
  assert bare.shape == Shape(16, 32, 16 * 32)
  assert bare.parts.decoder_config.rows == 96 + 2


@pytest.mark.parametrize(
  ('changes', 'tokens', 'targets', 'message'),
  [
    ({'model_type': 'mamba'}, 16, 0, "model_type 'mamba' is unknown"),
    ({}, 5000, 0, '--tokens=5000 is more than the model reads: 4,096 positions'),
    ({}, 16, 17, '--targets=17 is more than a row has: 16 tokens'),
    ({}, 0, 0, 'no tokenizer.json.*; or give --tokens=T'),
  ],
)
def test_what_cannot_be_planned_is_said(changes, tokens, targets, message, tmp_path):
  with pytest.raises(UserError, match=message):
    cost.page(config(folder(tmp_path, SMALL, **changes)), 1, tokens, targets)


def test_the_page_says_what_the_stream_holds_and_what_a_run_leaves(tmp_path):
  long = {'max_test_per_task': 3, 'max_length': 48}  # no row is cut
  made = runs.config('ewc', stream=long, checkpoint={'keep_tasks': True})
  page = cost.page(made, 1, workdir=str(tmp_path))
  said, text = json.loads(sections.as_json(page)), sections.as_text(page)
  assert list(said) == ['assumed', 'rows', 'tokens', 'memory', 'disk', 'flops', 'warnings']
  parts = experiment.assemble(made)
  splits = [(t.name, name) for t in parts.stream.tasks for name in ('train', 'dev', 'test')]
  for section in ('rows', 'tokens'):
    assert [(s['task'], s['split']) for s in said[section]['splits']] == splits
  assert [s['rows'] for s in said['rows']['splits']] == [40, 3, 3] * 3
  assert said['rows']['splits'][2] == {
    'task': splits[2][0], 'split': 'test', 'rows': 3, 'classes': 3, 'cut': 0, 'cut_percent': 0.0,
    'repeated': 0, 'leaked': 0, 'elsewhere': 0, 'conflicting': 0,
  }  # fmt: skip
  tokens = sum(len(row.tokens) for e in parts.stream.tasks[0].train for row in parts.text.rows(e))
  assert said['tokens']['splits'][0]['tokens'] == tokens
  assert re.search(f'{splits[0][0]}, train +{tokens} +{tokens / 40:.1f} ', text)
  size = checks.checkup(parts).footprint
  disk = said['disk']
  assert disk.pop('free') > 1e6
  assert disk == {
    'snapshot': size.snapshot, 'snapshots': 3, 'still': size.still, 'kept': size.kept,
    'total': size.disk, 'rehearsed': True,
  }  # fmt: skip
  assert said['memory']['largest_task'] == size.device
  (line,) = said['warnings']['lines']
  assert line.startswith('25.0 % (3 of 12) classes have no test row')
  for heading in ('rows', 'tokens', 'bytes on disk', 'warnings', 'bytes on each device'):
    assert heading in text.splitlines()
  assert line in text
  assert 'free' not in sections.as_text(cost.page(runs.config('seq'), 1))


def test_of_raw_text_the_page_has_blocks_and_tokens(tmp_path):
  made = runs.config('pretrain', stream={'cache': str(tmp_path)})
  page = cost.page(made, 1)
  said = json.loads(sections.as_json(page))
  blocks, tokens = said['rows']['splits'][0], said['tokens']['splits'][0]
  assert set(blocks) == {'task', 'split', 'rows'}
  assert blocks['rows'] == -(-tokens['tokens'] // 48)
  assert 'rows are blocks of 48 tokens' in sections.as_text(page)


def test_without_text_the_page_says_what_is_left_out(tmp_path):
  page = cost.page(config(folder(tmp_path, SMALL)), 1, 16)
  said = json.loads(sections.as_json(page))
  assert list(said) == ['assumed', 'memory', 'flops']
  assert said['assumed']['left_out'] == ['rows', 'tokens', 'disk', 'warnings']
  assert 'left out, for they need the text: rows, tokens, disk' in sections.as_text(page)


def test_a_stream_that_cannot_be_learned_is_refused_before_anything_is_compiled(monkeypatch):
  def refused(parts):
    raise UserError('as it is')

  monkeypatch.setattr(cost.checks, 'refuse', refused)
  monkeypatch.setattr(cost, 'memory', lambda *_: pytest.fail('compiled'))
  with pytest.raises(UserError, match='as it is'):
    cost.page(runs.config('seq'), 1)


@pytest.mark.parametrize('cache_mb', [pytest.param(0, marks=pytest.mark.slow), 2048])
def test_another_model_that_teaches_is_planned(cache_mb, tmp_path):
  """Whether it runs in the step or its states come with the batch."""
  made = external.config(external.written(tmp_path / 'large'))
  made.method.teacher_cache_mb = cache_mb
  now = first_step.outline(made, sharding.make_mesh(1))
  states = {'teacher_hidden': (now.shape.targets, external.WIDE)} if cache_mb else {}
  assert {name: x.shape for name, x in now.batch.fields.items()} == states
  parts = experiment.assemble(made)
  whole = jax.tree.map(np.shape, parts.method.init({}, parts.stream, parts.tools)['teacher'])
  assert jax.tree.map(lambda x: x.shape, now.inputs.teacher) == whole
  assert cost.memory(now).values['per_device']['teacher'] > 0


def test_attention_of_a_gpu_is_planned_as_its_plain_form_or_refused(tmp_path):
  made = config(folder(tmp_path, SMALL))
  made.backbone.attention = 'cudnn'
  with pytest.raises(UserError, match='bfloat16'):
    first_step.outline(made, sharding.make_mesh(1), 16)
  made.backbone.dtype = 'bfloat16'
  now = first_step.outline(made, sharding.make_mesh(1), 16)
  assert now.parts.decoder_config.attention == 'xla'
  assert made.backbone.attention == 'cudnn'


@pytest.mark.slow
def test_the_launcher_divides_by_eight_devices_under_fsdp(tmp_path):
  done = call(
    f'--config.backbone.path={folder(tmp_path, SMALL)}', '--tokens=16', '--devices=8', '--json',
    '--config.train.fsdp=true', '--config.train.batch_size=20',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  said = json.loads(done.stdout)
  assert said['assumed']['rows'] == 24
  memory = said['memory']
  assert memory['unsharded']['parameters'] == 4 * (MATRICES + NORMS)
  held = memory['per_device']['parameters']
  assert MATRICES / 2 + NORMS / 2 <= held <= MATRICES / 2 + 4 * NORMS  # norms may stay whole
  assert memory['per_device']['optimizer'] == 2 * held + 4
  assert memory['per_device']['batch'] * 8 == memory['unsharded']['batch']
  for part, value in said['flops']['per_device'].items():
    assert said['flops']['all_devices'][part] == pytest.approx(8 * value)


def test_the_launcher_refuses_no_devices():
  done = call('--devices=0')
  assert done.returncode == 2
  assert done.stderr.startswith('error: ')
  assert len(done.stderr.splitlines()) == 1
  assert 'devices' in done.stderr


@pytest.mark.slow
def test_eight_billion_parameters_on_64_devices_are_planned_in_little_memory(tmp_path):
  done = launchers.start(
    'plan', '--config=configs/quickstart.py:seq',
    f'--config.backbone.path={folder(tmp_path, LLAMA_3_8B)}', '--tokens=2048', '--devices=64',
    '--config.train.fsdp=true', '--config.train.batch_size=64',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert '8,030.26 million parameters' in done.stdout
  assert '32.1 GB' in done.stdout
  assert '503 MB' in done.stdout  # a 64th, and the norms, which are whole everywhere
  assert "XLA's CPU compiler" in done.stdout
  assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3e6  # kB
