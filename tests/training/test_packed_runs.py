"""Runs whose steps and teacher states are packed end where the unpacked ones do."""

import json

import jax
import numpy as np
import pytest
from support import rounding, runs

from jcl.batching import chunks
from jcl.errors import UserError
from jcl.preflight import cost
from jcl.step import sharding
from jcl.storage.checkpoint import Snapshots
from jcl.training import experiment

STEPS, RATE = 3, 1e-3


def config(packing, method='derpp'):
  """Two tasks of short rows, the second with states of a teacher in its batches."""
  rows = {'max_tasks': 2, 'max_length': 48, 'max_test_per_task': 4}
  train = {'steps': STEPS, 'packing': packing, 'learning_rate': RATE}
  return runs.config(method, stream=rows, train=train, checkpoint={'every_steps': 1})


def ended(workdir):
  """Losses, parameters and memory of a run that has ended."""
  lines = [json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()]
  found = Snapshots(workdir, write=False).latest()
  trees = {'params': found['params'], 'memory': found['memory']}
  return [x['loss'] for x in lines if 'loss' in x], jax.tree.leaves(trees)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The workdirs of an unpacked run, a packed one, and one that was killed and resumed."""
  root = tmp_path_factory.mktemp('packed')
  runs.run(config('off'), root / 'off')
  runs.run(config('on'), root / 'on')
  (root / 'killed').mkdir()
  loop = runs.Loop(experiment.assemble(config('on')), root / 'killed', quiet=True)
  runs.die_after_step(loop, task=1, step=1)
  runs.run(config('on'), root / 'killed')
  return root


@pytest.mark.slow
def test_it_ends_where_the_unpacked_one_does(folder):
  (losses, plain), (packed_losses, packed) = ended(folder / 'off'), ended(folder / 'on')
  deep = rounding.layers(1, gradient=True)
  assert len(losses) == 2 * STEPS
  np.testing.assert_allclose(packed_losses, losses, rtol=rounding.tolerance(64, 2 * STEPS * deep))
  most = rounding.trained(2 * STEPS, RATE, terms=64, depth=deep)
  for one, other in zip(plain, packed, strict=True):
    if np.asarray(one).dtype.kind == 'f':
      assert np.abs(one - other).max(initial=0) <= most * max(1, np.abs(one).max(initial=0))
    else:
      np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_packed_run_that_was_killed_ends_in_the_same_bits(folder):
  for one, other in zip(ended(folder / 'on')[1], ended(folder / 'killed')[1], strict=True):
    np.testing.assert_array_equal(one, other)


def test_states_of_a_teacher_are_those_of_unpacked_rows(monkeypatch):
  parts = experiment.assemble(config('on'))
  tools, params, backbone = parts.tools, parts.initial_params(), parts.backbone
  rows = [row for item in tools.rows(parts.stream.tasks[0].train) for row in item]
  found = tools.map_targets(backbone.hidden, params, rows)
  plain = lambda rows, size, blocks, packing, width: real(rows, size, blocks, 'off', width)
  real = chunks.chunked
  monkeypatch.setattr('jcl.training.hook_tools.chunked', plain)
  wanted = tools.map_targets(backbone.hidden, params, rows)
  assert len(found) == len(rows)
  for one, other in zip(found, wanted, strict=True):
    rounding.assert_close(one, other, terms=24, depth=rounding.layers(1))


def test_plan_says_how_much_is_padding():
  words = {}
  for packing in ('on', 'off'):
    now = cost.outline(config(packing, 'seq'), sharding.make_mesh(1))
    section = cost.assumed(now)
    words[packing] = {a.strip(): b.strip() for a, b in section.rows}
    assert section.values['packed'] == (packing == 'on')
    assert section.values['padding_unpacked'] > 0.1
  assert words['off']['padding'].endswith(' of the tokens of a step; a row has a line of its own')
  assert words['on']['padding'].endswith(' if rows were not packed')
  assert ' lines of ' in words['on']['batch']


def test_packing_is_refused_where_the_attention_cannot():
  made = config('on')
  made.backbone.attention, made.backbone.dtype = 'cudnn', 'bfloat16'
  with pytest.raises(UserError, match=r"train\.packing is 'on', but backbone.attention 'cudnn'"):
    experiment.check(made)
  made.train.packing = 'auto'
  experiment.check(made)
