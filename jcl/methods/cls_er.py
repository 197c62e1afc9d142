"""Complementary learning systems with experience replay, CLS-ER (Arani et al. 2022).

    L = CE(new and old) + lambda_cls · MSE(old)

Two moving averages of the parameters, a fast and a slow one, act as teachers. MSE is the mean
squared difference between the logits of the model and of one average: at each target, the average
that gives the right answer the higher probability. After an update each average moves with a
probability of its own (fast_rate, slow_rate), by the formula of `ema`:

    θ̄ ← θ̄ + (1 − a) (θ − θ̄),    a = min(1 − 1 / (n + 1), decay),    n updates of the run

The slow average is evaluated.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.config import choice, number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.ema import averaged
from jcl.methods.method import Method
from jcl.methods.replay import Replay, replay
from jcl.step import losses

AVERAGES = ('fast', 'slow')


@dataclasses.dataclass
class ClsEr(Replay):
  """The buffer is that of `replay`; the published code has decays of 0.999, for long runs."""

  lambda_cls: float = number(0.1, least=0)  # weight of the MSE
  fast_decay: float = number(0.95, least=0, below=1)  # largest share the fast average keeps
  slow_decay: float = number(0.99, least=0, below=1)  # largest share the slow average keeps
  fast_rate: float = number(0.9, above=0, most=1)  # probability that an update moves the fast one
  slow_rate: float = number(0.7, above=0, most=1)  # probability that an update moves the slow one
  # Old rows make up half of every batch (`batch`), or are mixed into each epoch (`dataset`).
  level: str = choice('batch', 'dataset')
  brings: ClassVar = ('loss', 'rows', 'slow')
  holds_tree: ClassVar = True

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `cls_er`."""
    return cls_er(backbone, self)


def cls_er(backbone: Backbone, settings: ClsEr) -> Method:
  """Returns the method.

  `teacher` holds both averages, the number of updates, and the key of the draws that decide which
  average moves.
  """
  s, past = settings, replay(backbone, settings)
  how = {'fast': (s.fast_decay, s.fast_rate), 'slow': (s.slow_decay, s.slow_rate)}

  def init(params, stream, tools):
    key = jax.random.key_data(tools.key('averages'))
    averages = dict.fromkeys(AVERAGES, params)
    return past.init(params, stream, tools) | {
      'teacher': {**averages, 'updates': jnp.int32(0), 'key': key}
    }

  def loss_fn(params, teacher_params, batch):
    clean, old_M = batch.replace(embedding_delta=None), batch.replay_M
    states = [backbone.hidden(teacher_params[name], clean) for name in AVERAGES]

    def squared_error(logits_MV, token_M, allowed_MC, *states_MD):
      fast_MV, slow_MV = (
        backbone.project(teacher_params[name], hidden_MD)
        for name, hidden_MD in zip(AVERAGES, states_MD, strict=True)
      )
      fast_M, slow_M = (losses.cross_entropy(z, token_M, allowed_MC) for z in (fast_MV, slow_MV))
      surer_MV = jnp.where((slow_M < fast_M)[:, None], slow_MV, fast_MV)
      return losses.mean_squared_error(logits_MV, surer_MV, allowed_MC)

    def each(logits_MV, old_M, *rest):
      ce_M = losses.cross_entropy(logits_MV, *rest[:2])
      return ce_M, losses.where_it_counts(squared_error, old_M, logits_MV, *rest)

    hidden_MD = backbone.hidden(params, batch, train=True)
    rest = old_M & (batch.target_weight > 0), batch.target_token, batch.allowed, *states
    ce_M, mse_M = losses.per_target(each, backbone, params, hidden_MD, *rest)
    return {'ce': (ce_M, True), 'mse': (mse_M, old_M)}

  def plan(memory, task):
    return past.plan(memory, task)._replace(weights={'mse': s.lambda_cls})

  def after_step(teacher_params, params, step):
    updates = teacher_params['updates'] + 1
    key = jax.random.fold_in(jax.random.wrap_key_data(teacher_params['key']), updates)
    draws = jax.random.uniform(key, (len(AVERAGES),))
    moved = {}
    for draw, (name, (decay, rate)) in zip(draws, how.items(), strict=True):
      before, moves = teacher_params[name], draw < rate
      after = averaged(before, params, updates, decay)
      chosen = lambda new, old, moves=moves: jnp.where(moves, new, old)
      moved[name] = jax.tree.map(chosen, after, before)
    return teacher_params | moved | {'updates': updates}, params

  def params_for(memory, params, task):
    return memory['teacher']['slow']

  return past._replace(
    init=init, plan=plan, loss_fn=loss_fn, after_step=after_step, params_for=params_for
  )
