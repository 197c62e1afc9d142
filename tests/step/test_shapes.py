"""Arguments of another shape or type are refused while a function is traced, by their names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from jcl.batching.batch import Shape, layout
from jcl.config import TrainConfig
from jcl.methods import Method
from jcl.step import device_maps, losses, shapes, sharding, shards, train_step, trainable
from jcl.step.adversarial import adversarial
from jcl.step.optimizer import make_optimizer

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
Z = np.zeros((5, 7), np.float32)
TOKENS, WHERE = np.zeros(5, np.int32), np.ones((5, 7), bool)
STATES = np.zeros((5, 16), np.float32)
BATCH = layout(tiny.rows(), 1, Shape(16, 20, 64), tiny.keys(13))
PARAMS = tiny.params(BACKBONE)


@pytest.mark.parametrize(
  ('call', 'name'),
  [
    (lambda: losses.restrict(Z[0], None), 'logits_MV'),
    (lambda: losses.restrict(Z.astype(np.int32), None), 'logits_MV'),
    (lambda: losses.restrict(Z, WHERE[:, :6]), 'where'),
    (lambda: losses.restrict(Z, WHERE.astype(np.float32)), 'where'),
    (lambda: losses.cross_entropy(Z, TOKENS[:4]), 'token_M'),
    (lambda: losses.cross_entropy(Z, TOKENS.astype(np.float32)), 'token_M'),
    (lambda: losses.cross_entropy(Z, TOKENS[:, None]), 'token_M'),
    (lambda: losses.distillation(Z, Z[:4], 2.0), 'teacher_MV'),
    (lambda: losses.distillation(Z, Z, 2.0, WHERE[:4]), 'where'),
    (lambda: losses.mean_squared_error(Z, Z[:, :6]), 'teacher_MV'),
    (lambda: losses.mean_squared_error(Z, Z, WHERE[0]), 'where'),
    (lambda: losses.per_target(jnp.sum, BACKBONE, PARAMS, Z), 'hidden_MD'),
    (lambda: losses.per_target(jnp.sum, BACKBONE, PARAMS, STATES, TOKENS[:4]), 'rest_M, leaf 0'),
    (lambda: losses.total(Z[0], True, BATCH), 'value_M'),
    (lambda: losses.total(np.zeros(64, np.int32), True, BATCH), 'value_M'),
    (lambda: losses.total(np.zeros(64, np.float32), WHERE[0], BATCH), 'where_M'),
    (lambda: losses.total(np.zeros(64, np.float32), np.ones(64, np.float32), BATCH), 'where_M'),
    (lambda: device_maps.largest(Z, WHERE[0], np.zeros((7, 2), np.uint32), 2), 'score_B'),
    (lambda: device_maps.largest(Z[0], WHERE[1, :5], np.zeros((7, 2), np.uint32), 2), 'where_B'),
    (lambda: device_maps.largest(Z[0], WHERE[0], np.zeros((7, 2), np.int32), 2), 'key_B2'),
    (lambda: shards.gather({'a': Z}, {'b': sharding.WHOLE}), 'tree_specs'),
    (lambda: trainable.split({'a': Z}, (('a', np.ones(4, bool)),)), 'mask of a'),
    (lambda: shapes.check_divisible('rows', 7, 2), 'rows'),
  ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_its_name(call, name):
  for trace in (call, lambda: jax.eval_shape(call)):
    with pytest.raises(AssertionError, match=rf'argument .*{name}'):
      trace()


WRONG = {
  'tokens': np.zeros((16, 20), np.float32),
  'length': np.zeros(15, np.int32),
  'replay': np.zeros(16, np.int32),
  'generative': np.zeros((16, 1), bool),
  'task': np.zeros(16, np.float32),
  'key': np.zeros((16, 3), np.uint32),
  'target_row': np.zeros(63, np.int32),
  'target_position': np.zeros(63, np.int32),
  'target_token': np.zeros(64, np.float32),
  'target_weight': np.zeros(64, np.int32),
  'allowed': np.ones((63, 6), bool),
  'known': np.ones((64, 6), np.float32),
  'fields': {'states': np.zeros((63, 4), np.float32)},
  'segment': np.zeros((16, 19), np.int32),
  'position': np.zeros((15, 20), np.int32),
  'embedding_delta': np.zeros((16, 19, 16), np.float32),
}


def wrong(field):
  return dataclasses.replace(BATCH, **{field: WRONG[field]})


def test_every_field_of_a_batch_is_looked_at():
  assert set(WRONG) == {f.name for f in dataclasses.fields(BATCH)}
  shapes.check_batch(BATCH)
  shapes.check_batch(BATCH, 16)


@pytest.mark.parametrize('field', list(WRONG))
def test_a_batch_that_does_not_fit_is_refused_by_the_name_of_its_field(field):
  seq = train_step.make_gradient(Method(), losses.plain(BACKBONE), sharding.make_mesh(1))
  mesh = sharding.make_mesh(1)
  wrapped = adversarial(Method().objective, 16, 0.5, 1.0)(lambda params, batch: None)
  for call in (
    lambda batch: seq(PARAMS, jax.tree.map(lambda x: None, PARAMS), {}, {}, batch),
    lambda batch: losses.target_cross_entropy(BACKBONE, PARAMS, batch),
    lambda batch: wrapped(PARAMS, batch),
    lambda batch: device_maps.map_targets(BACKBONE.hidden, mesh)(PARAMS, batch),
    lambda batch: device_maps.sum_examples(jnp.sum, mesh)(PARAMS, batch, np.ones(16, np.float32)),
  ):
    with pytest.raises(AssertionError, match=rf'argument batch\.{field}'):
      call(wrong(field))


def test_rows_and_targets_that_do_not_divide_are_refused():
  for size, name in ((5, r'batch\.tokens must divide into 5'), (16, 'target_token must divide')):
    batch = BATCH if size == 5 else dataclasses.replace(BATCH, **{
      name: x[:60] for name, x in vars(BATCH).items() if name.startswith('target_')
    })  # fmt: skip
    with pytest.raises(AssertionError, match=name):
      shapes.check_batch(batch, size)
  maps = device_maps.map_rows(lambda params, x, y: x, sharding.make_mesh(1))
  with pytest.raises(AssertionError, match='argument rows, leaf 1'):
    maps({}, (np.zeros(4), np.zeros(3)), ())
  summed = device_maps.sum_examples(jnp.sum, sharding.make_mesh(1))
  with pytest.raises(AssertionError, match='argument counts'):
    summed(PARAMS, BATCH, np.ones((16, 1), np.float32))


def step_with(**changed):
  """Calls the step with other arguments."""
  trained, frozen, masks = trainable.split(PARAMS, (('.*', True),))
  optimizer = make_optimizer(TrainConfig())
  state = {'params': trained, 'optimizer': optimizer.init(trained), 'step': np.int32(0)}
  step = train_step.make_step(Method(), losses.plain(BACKBONE), optimizer, sharding.make_mesh(1))
  given = {'weights': {}, 'rate': np.float32(0.1)} | changed
  state['step'] = given.pop('count', state['step'])
  return jax.eval_shape(step, state, (frozen, masks, {}), given['weights'], given['rate'], BATCH)


def test_a_step_refuses_what_is_no_scalar():
  step_with()
  for changed, name in (
    ({'rate': np.ones(2, np.float32)}, 'rate'),
    ({'rate': np.int32(1)}, 'rate'),
    ({'count': np.float32(0)}, r"state\['step'\]"),
    ({'weights': {'ce': np.ones(2, np.float32)}}, r"weights\['ce'\]"),
  ):
    with pytest.raises(AssertionError, match=f'argument {name}'):
      step_with(**changed)


def test_checks_leave_nothing_in_the_traced_program(monkeypatch):
  program = lambda: str(jax.make_jaxpr(lambda z: losses.cross_entropy(z, TOKENS, WHERE).sum())(Z))
  checked = program()
  monkeypatch.setattr(losses, 'check_array', lambda *args, **more: None)
  losses.cross_entropy(Z, TOKENS.astype(np.int64), WHERE)
  assert program() == checked
