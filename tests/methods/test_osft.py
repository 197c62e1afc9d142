"""OSFT: what it refuses, and which parameters it constrains; its course is in the scorecard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from jcl import methods
from jcl.errors import UserError


def begun(make=tiny.small_decoder, **given):
  """The method before its first task, its memory, and the parameters."""
  tools = tiny.tools('plain', make=make)
  method = methods.make(tools.backbone, methods.settings_class('osft')(**given))
  params = tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  after, same = method.before_task(memory, params, tools.stream.tasks[0], tools)
  assert same is params
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(memory) == shapes(after)
  return method, after, params


def test_every_projection_of_the_layers_is_constrained_and_nothing_else():
  method, memory, params = begun(unfreeze_ratio=0.25)
  ones = jax.tree.map(jnp.ones_like, params)
  free = method.project(ones, params, memory['teacher'], jnp.int32(0))
  changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), ones, free)
  names = {name for name, part in changed['layers'].items() if any(part.values())}
  assert names == {'q', 'k', 'v', 'o', 'gate', 'up', 'down'}
  assert not any(jax.tree.leaves({name: x for name, x in changed.items() if name != 'layers'}))
  assert memory['teacher']['layers']['q']['in'].shape == (2, 16, 12)


def test_a_layer_at_a_time_is_decomposed():
  """So that the bar moves, and a kill costs one layer."""
  tools, chunks = tiny.tools('plain', make=tiny.small_decoder), []
  tools.folds.on_chunk = lambda name, done, of: chunks.append((name, done, of))
  method = methods.make(tools.backbone, methods.settings_class('osft')())
  params = tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  method.before_task(memory, params, tools.stream.tasks[0], tools)
  assert chunks == [('directions', done, 14) for done in range(1, 15)]  # 2 layers, 7 projections


def test_a_leaf_that_is_frozen_stays_so():
  method, memory, params = begun()
  updates = {'embed': params['embed'], 'layers': jax.tree.map(lambda _: None, params['layers'])}
  found = method.project(updates, params, memory['teacher'], jnp.int32(0))
  assert found['layers'] == updates['layers']
  assert found['embed'] is updates['embed']


def test_all_directions_are_free_where_the_ratio_says_so():
  method, memory, params = begun(unfreeze_ratio=1.0)
  assert memory['teacher'] == {}
  assert method.project(params, params, {}, jnp.int32(0)) == params


@pytest.mark.parametrize('name', ['lora+osft', 'osft+slao', 'expand+osft'])
def test_what_adds_parameters_is_refused_in_one_line(name):
  with pytest.raises(UserError, match=r'method .*of which osft keeps a copy; leave one') as error:
    methods.settings(name)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('ratio', [0.0, 1.5])
def test_a_ratio_out_of_its_bounds_is_refused(ratio):
  with pytest.raises(UserError, match=r'method\.unfreeze_ratio is'):
    methods.settings_class('osft')(unfreeze_ratio=ratio).check()
