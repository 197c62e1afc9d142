"""jcl computes with its own arithmetic, whatever the program around it has set jax to."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import runs, slow

import jcl
from jcl import methods
from jcl.preflight import cost
from jcl.step.numerics import computing, own_arithmetic

STRICT = {
  'jax_enable_x64': True, 'jax_numpy_dtype_promotion': 'strict',
  'jax_numpy_rank_promotion': 'raise', 'jax_default_prng_impl': 'rbg',
  'jax_threefry_partitionable': False,
}  # fmt: skip


@pytest.fixture
def strict():
  """Every setting that other JAX programs may have, in this and in every thread."""
  before = {name: getattr(jax.config, name) for name in STRICT}
  for name, value in STRICT.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_data_of_the_host_may_be_moved():
  add = jax.jit(lambda x: x + 1)
  jax.config.update('jax_transfer_guard', 'disallow')
  try:
    with pytest.raises(jax.errors.JaxRuntimeError, match=r'[Dd]isallowed'):
      add(np.ones(2))
    assert computing(add)(np.ones(2)).tolist() == [2, 2]
  finally:
    jax.config.update('jax_transfer_guard', None)


def kinds() -> tuple[str, str]:
  x = jnp.ones(3, jnp.float32) * jnp.ones((2, 3), jnp.int32)  # promotes rank and type
  return str(jnp.arange(2).dtype), str((x + np.float64(1)).dtype)


def test_functions_and_generators_compute_as_jcl_does(strict):
  with pytest.raises((TypeError, ValueError)):
    kinds()

  @computing
  def items(count):
    for _ in range(count):
      yield kinds()

  ours = ('int32', 'float32')
  assert computing(kinds)() == ours
  made = items(2)
  assert next(made) == ours
  assert str(jnp.arange(2).dtype) == 'int64'  # between two items the program's own
  assert list(made) == [ours]
  with own_arithmetic():
    assert kinds() == ours
  seen = []
  thread = threading.Thread(target=computing(lambda: seen.append(kinds())))
  thread.start()
  thread.join()
  assert seen == [ours]


@pytest.mark.parametrize('method', slow.but(('lamol_kd',), methods.BUILT_IN))
def test_a_step_of_every_method_is_traced(method, strict):
  """The plan traces the hooks and the step with the types of all arrays; nothing is compiled."""
  made = runs.config(method, stream={'max_tasks': 2, 'max_train_per_task': 4})
  assert [section.name for section in cost.page(made, 1)]


@pytest.mark.slow
def test_a_run_is_the_same_to_the_bit(request):
  """The whole front door: training, answers, probabilities, sampling and a second run."""
  made = runs.config('lamol', stream={'max_tasks': 2, 'max_train_per_task': 8}).backbone
  train = {'epochs': 1, 'batch_size': 8, 'learning_rate': 1e-2}
  stream = {'max_tasks': 1, 'max_train_per_task': 8, 'max_test_per_task': 4, 'max_length': 48}

  def outcome():
    done = jcl.learn(
      jcl.load_stream('synthetic', **stream), 'lamol', model=made, train=train, quiet=True
    )
    texts = [e.text for e in jcl.load_stream('synthetic', **stream).tasks[0].test]
    model = done.model
    return (
      done.results['params_sha256'], done.results['matrix'], model.answer(texts),
      model.probabilities(texts), model.generate(texts[:2], max_new=4), repr(model),
      [str(leaf.dtype) for leaf in jax.tree.leaves(model.params)],
    )  # fmt: skip

  usual = outcome()
  request.getfixturevalue('strict')
  assert outcome() == usual
