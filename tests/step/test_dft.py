"""Weighed targets: which terms they are of; their values are in the scorecard (`shared.dft`)."""

import jax.numpy as jnp
import numpy as np
import pytest
from support import runs, tiny

import jcl
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.methods import Method
from jcl.training import experiment

BACKBONE = tiny.recurrent(30)
BATCH = layout(tiny.rows(3), 1, Shape(8, 24, 24), tiny.keys(3))
PLAIN = Method(loss_fn=lambda params, teacher_params, batch: {
  name: (jnp.full(batch.target_weight.shape, 2.0), True) for name in ('qa', 'gen', 'kd_qa')
})  # fmt: skip


def with_dft(method, dft=True):
  made = runs.config('seq', train={'dft': dft})
  return experiment.with_knobs(method, made, BACKBONE)


def test_cross_entropies_are_weighed_and_distillation_is_not():
  terms = with_dft(PLAIN).loss_fn({}, {}, BATCH)
  found = {name: float(value_M[0]) for name, (value_M, _) in terms.items()}
  weighed = 2 * np.exp(-2)
  assert found == pytest.approx({'qa': weighed, 'gen': weighed, 'kd_qa': 2.0}, rel=1e-6)


def test_without_it_the_loss_is_the_method_s_own():
  assert with_dft(PLAIN, dft=False) is PLAIN
  assert with_dft(Method(), dft=False).loss_fn is None


def test_a_loss_that_it_would_not_change_is_refused():
  other = PLAIN._replace(loss_fn=lambda *_: {'mine': (jnp.zeros(24), True)})
  with pytest.raises(UserError, match=r'train\.dft is true, but the loss has no term .*has mine'):
    with_dft(other).loss_fn({}, {}, BATCH)


@pytest.mark.slow
def test_a_run_logs_the_weighed_loss_which_no_term_exceeds_one_over_e():
  stream = jcl.load_stream('synthetic', max_tasks=1, max_train_per_task=8, max_test_per_task=2)
  seen = []

  class Note:
    def on_step(self, line):
      seen.append(line['ce'])

  train = jcl.TrainConfig(
    dft=True, steps=2, batch_size=8, log_every=1, speed_every=0, learning_rate=1e-2
  )
  jcl.learn(stream, 'seq', model=runs.from_scratch(), train=train, callbacks=[Note()], quiet=True)
  assert seen
  assert all(0 < value <= np.exp(-1) for value in seen)
