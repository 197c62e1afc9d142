"""Objectives of methods and their gradients, against golden values of torch's autograd."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_objective_goldens as goldens
from support import rounding, tiny

from jcl import methods
from jcl.batching.batch import Row, Shape, layout
from jcl.batching.outlines import outline_of
from jcl.memory import fisher
from jcl.step import losses, sharding, train_step, trainable
from jcl.streams.stream import Example
from jcl.training.hook_tools import make_tools

BACKBONE = tiny.recurrent(goldens.VOCABULARY)


@pytest.fixture(scope='module')
def golden():
  with np.load(goldens.PATH) as file:
    return dict(file)


def rows():
  """As the code has them."""
  return [
    Row(np.int32(tokens), places, np.int32(wanted), number, 0, replay, generative)
    for number, (tokens, places, wanted, replay, generative) in enumerate(goldens.rows())
  ]


class OneRow:
  """A text format in which every example is one of the rows."""

  eos = pad = 0

  def rows(self, example, replay=False):
    return (rows()[example.number],)

  def outlines(self, example):
    return tuple(map(outline_of, self.rows(example)))


def measured(name, chosen, params):
  """Returns the memory of a method of importance."""
  examples = [Example(i, '', '', 0) for i in range(13)]
  tools = make_tools(BACKBONE, OneRow(), tiny.stream(), sharding.make_mesh(1), 0, 8)
  if name == 'mas':
    fn = fisher.absolute_gradient(fisher.output_size(BACKBONE))
  else:
    fn = fisher.squared_gradient(fisher.answer_nats(BACKBONE))
  kept = tools.mean_examples(fn, params, examples)
  return {'fisher': kept, 'anchor': params, 'constant': jnp.float32(0)}


def teacher_of(name, chosen, past):
  if name in ('ewc', 'mas'):
    return measured(name, chosen, past)
  if name == 'l2':
    alike = jax.tree.map(lambda p: jnp.float32(1), past)
    return {'fisher': alike, 'anchor': past, 'constant': jnp.float32(0)}
  return past if name in ('derpp', 'distill', 'lamol_kd') else {}


@pytest.mark.parametrize('name', list(goldens.CASES))
def test_objective_and_gradient_are_those_of_torch(name, golden):
  tree = lambda part: {
    leaf: {'kernel': jnp.asarray(golden[f'{part}/{leaf}'], jnp.float32)}
    for leaf in ('embed', 'mix', 'bias')
  }
  params, past = tree('params'), tree('past')
  chosen = methods.settings_class(name)(**goldens.CASES[name])
  method = methods.make(BACKBONE, chosen)
  tools = tiny.tools(chosen.text_format)
  weights = method.plan(_memory(method, tools), tools.stream.tasks[1]).weights
  fn = train_step.make_gradient(
    method, method.loss_fn or losses.plain(BACKBONE), sharding.make_mesh(1)
  )
  batch = layout(rows(), 1, Shape(16, 16, 64), tiny.keys(13))
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  teacher = teacher_of(name, chosen, past)
  (loss, _), gradient = jax.jit(fn)(trained, frozen, teacher, weights, batch)
  assert float(loss) == tiny.nearly(float(golden[f'{name}/loss']))
  largest = max(np.abs(golden[f'{name}/gradient/{leaf}']).max() for leaf in params)
  for leaf in params:
    wanted = golden[f'{name}/gradient/{leaf}']
    assert np.abs(wanted).max() > 1e-3
    rounding.assert_close(gradient[leaf]['kernel'], wanted, scale=largest, **tiny.GRADIENT)


def _memory(method, tools):
  """Of the second task; only the plan's weights are asked for."""
  return method.init(tiny.params(tools.backbone), tools.stream, tools)


def test_golden_values_are_what_torch_gives_now(golden):
  pytest.importorskip('torch')
  now = goldens.values()
  assert set(now) == set(golden)
  for name, value in now.items():
    rounding.assert_close(value, golden[name], dtype=np.float64, margin=64, **tiny.GRADIENT)


@pytest.mark.slow
def test_the_methods_differ_from_each_other(golden):
  found = {name: round(float(golden[f'{name}/loss']), 4) for name in goldens.CASES}
  assert found.pop('replay') == found['seq']
  assert len(set(found.values())) == len(found)
