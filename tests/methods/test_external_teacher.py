"""Distillation from another model: of another size, of the same vocabulary, from task 1 on."""

import dataclasses
import functools
import json
import runpy

import chex
import jax
import numpy as np
import pytest
from oracles import distillation
from support import ROOT, runs, tiny
from support.external import WIDE, config, written

from jcl import methods
from jcl.backbones.files import hf
from jcl.batching.batch import Shape, layout
from jcl.config import BackboneConfig
from jcl.errors import UserError
from jcl.memory.teacher import ExternalTeacher
from jcl.step import sharding, train_step, trainable
from jcl.trained_run import TrainedRun
from jcl.training import experiment


@functools.cache
def life(cache_mb, **given):
  """-> tools, method, the elder's params and the memory before each task."""
  tools = tiny.tools('plain', examples=7)
  external_teacher = tiny.recurrent(tools.backbone.vocabulary, width=WIDE)
  past = jax.tree.map(np.asarray, tiny.params(external_teacher, 1))
  settings = methods.settings_class('distill')(
    teacher_path='large', teacher_cache_mb=cache_mb, **given
  )
  method = methods.make(tools.backbone, settings, ExternalTeacher(external_teacher, past))
  params = tiny.params(tools.backbone)
  memory, memories = method.init(params, tools.stream, tools), []
  for task in tools.stream.tasks:
    memory, params = method.before_task(memory, params, task, tools)
    memories.append(memory)
    params = tiny.params(tools.backbone, 10 + task.index)
    memory, params = method.after_task(memory, params, task, tools)
  return tools, method, external_teacher, past, memories


@functools.cache
def gradient_of(method):
  return jax.jit(train_step.make_gradient(method, method.loss_fn, sharding.make_mesh(1)))


@pytest.mark.parametrize('cache_mb', [0, 2048])
@pytest.mark.parametrize('task', [0, 2])
def test_the_objective_is_the_oracles_in_every_task(task, cache_mb):
  tools, method, _, past, memories = life(cache_mb, alpha=0.7, distill_temperature=3.0)
  plan = method.plan(memories[task], tools.stream.tasks[task])
  rows = [r for item in tools.rows(plan.new) for r in item]
  batch = layout(rows, 1, Shape(8, 24, 64), tables=plan.tables)
  params = tiny.params(tools.backbone, 5)
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  arguments = (trained, frozen, memories[task]['teacher'], plan.weights, batch)
  (loss, _), found = gradient_of(method)(*arguments)
  vocabulary = tools.backbone.vocabulary
  wanted = distillation.distill(params, past, rows, vocabulary, 0.7, 3.0)
  assert float(loss) == tiny.nearly(wanted)
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(found))
  if cache_mb:
    assert batch.fields['teacher_hidden'].shape == (64, WIDE)


@pytest.mark.parametrize('cache_mb', [0, 2048])
def test_the_elder_stays_as_it_is_and_has_one_structure(cache_mb):
  *_, external_teacher, past, memories = life(cache_mb)
  for memory in memories:
    wanted = external_teacher.unembedding(past) if cache_mb else past
    chex.assert_trees_all_equal(memory['teacher'], wanted)
    assert [t['values'].shape[1:] for t in memory['tables'].values()] == [(WIDE,)] * bool(cache_mb)


# Models on disk.


@pytest.fixture(scope='module')
def large(tmp_path_factory):
  return written(tmp_path_factory.mktemp('large') / 'model')


@pytest.mark.slow
def test_a_run_reads_its_teacher_and_goes_on_in_the_same_bits(large, tmp_path):
  """The rows of the student's embedding are padded, the teacher's are not."""
  made = config(large, backbone={'vocabulary_multiple': 64})
  parts = experiment.assemble(made)
  assert parts.decoder_config.rows % 64 == 0
  assert parts.decoder_config.rows != hf.load_config(str(large)).rows
  assert parts.backbone.width == 16
  whole = runs.run(made, tmp_path / 'whole')
  lines = [json.loads(x) for x in (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()]
  assert all(line['kd'] > 0 for line in lines)
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'killed', kill=('train', 1))
  again = runs.run(made, tmp_path / 'killed')
  assert again['params_sha256'] == whole['params_sha256']


def test_a_student_from_scratch_takes_a_tokenizer(large):
  """Whatever the words of its own stream are."""
  made = config(large, backbone={'tokenizer_path': str(large)})
  made.stream.max_tasks = 1
  parts = experiment.assemble(made)
  assert parts.text.tokenizer.get_vocab() == hf.load(str(large), False).tokenizer.get_vocab()
  assert parts.weights is None
  made.backbone.tokenizer_path = ''
  with pytest.raises(UserError, match='is not that of the model'):
    experiment.assemble(made)


def test_other_vocabularies_are_refused_with_the_first_token_that_differs(large, tmp_path):
  made = config(written(tmp_path / 'one', tasks=1))
  with pytest.raises(UserError) as refused:
    experiment.assemble(made)
  mine, theirs = (hf.load(str(f), False).tokenizer.get_vocab() for f in (large, tmp_path / 'one'))
  first = min(i for t, i in mine.items() if theirs.get(t) != i)
  word = next(t for t, i in mine.items() if i == first)
  other = next(t for t, i in theirs.items() if i == first)
  assert str(refused.value) == (
    f'method.teacher_path: {tmp_path / "one"}: its vocabulary of {len(theirs)} tokens is not that '
    f'of the model, {len(mine)}; token {first} is {other!r} there and {word!r} here'
  )
  made.method.teacher_path = str(written(tmp_path / 'added', 'lamol'))
  with pytest.raises(UserError, match=r"token \d+ is '__ans__' there and nothing here"):
    experiment.assemble(made)


def test_what_cannot_teach_is_refused(large, tmp_path):
  made = config(large, backbone={'head': 'linear'})
  with pytest.raises(
    UserError, match=r'method\.teacher_path is .*; it must be empty with backbone'
  ):
    experiment.assemble(made)
  made = config(tmp_path / 'nowhere' / 'at' / 'all')
  with pytest.raises(UserError, match='no such folder'):
    experiment.assemble(made)
  short = written(tmp_path / 'short', max_positions=8)
  with pytest.raises(UserError, match=r'reads 8 tokens, rows have up to 16; lower stream\.max_le'):
    experiment.assemble(config(short))
  made = config(large, backbone={'path': str(large), 'tokenizer_path': str(large)})
  with pytest.raises(UserError, match=r'backbone\.tokenizer_path is .* leave one of them empty'):
    experiment.assemble(made)


# The recipe.


@pytest.mark.slow
def test_the_recipe_from_a_large_model_to_a_small_one(tmp_path, monkeypatch):
  """All five commands of its docstring, at a tiny size."""
  get_config = runpy.run_path(str(ROOT / 'configs' / 'distill_large_to_small.py'))['get_config']
  monkeypatch.chdir(tmp_path)

  def done(method, name, **backbone):
    made = get_config(method)
    made.stream = dataclasses.replace(
      made.stream, max_tasks=1, max_train_per_task=24, max_test_per_task=4
    )
    made.train.epochs, made.backbone.layers = 1, 1
    made.backbone = BackboneConfig(**backbone) if backbone else made.backbone
    (tmp_path / 'runs').mkdir(exist_ok=True)
    results = runs.run(made, tmp_path / 'runs' / name)
    run = TrainedRun(made, tmp_path / 'runs' / name)
    run.model.save(tmp_path / 'runs' / f'{name}_model')
    return results

  done('joint', 'large')
  small = done('distill', 'small')
  tuned = done('replay', 'tuned', path='runs/small_model')
  assert small['config']['method']['teacher_path'] == 'runs/large_model'
  assert tuned['matrix'][0][0] is not None
  shapes = [hf.load_config(f'runs/{name}_model') for name in ('large', 'small', 'tuned')]
  assert [s.width for s in shapes] == [128, 48, 48]
  assert len({s.rows for s in shapes}) == 1
