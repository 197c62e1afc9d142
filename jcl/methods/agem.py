"""A-GEM (Chaudhry et al. 2019): to first order a step on the new rows harms no old row.

    g = g_new                                       where g_new·g_old ≥ 0, or no old row is there
    g = g_new − (g_new·g_old / g_old·g_old) g_old   elsewhere

g_new and g_old are the gradients of the mean cross-entropy of new and of old targets; the products
run over all entries that train. The logged loss is the sum of the two means; the old one only
bounds the direction. The optimiser then rescales g, so with Adam the bound is approximate.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.config import choice
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, require
from jcl.methods.replay import Replay, replay
from jcl.step import losses
from jcl.types import Tree


@dataclasses.dataclass
class Agem(Replay):
  """The buffer is that of `replay`."""

  # Old rows make up half of every batch (`batch`), or are mixed into each epoch (`dataset`).
  level: str = choice('batch', 'dataset')
  brings: ClassVar = ('loss', 'rows', 'combine')

  def check(self) -> None:
    """Refuses values out of their bounds, and replay of the most interfered rows."""
    super().check()
    right = "'random': the gradient of a random sample of the past is the bound"
    require(self.select == 'random', 'select', self.select, right)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `agem`."""
    return agem(backbone, self)


def agem(backbone: Backbone, settings: Agem) -> Method:
  """Returns A-GEM: new and old rows are two groups, and the step follows their combination."""
  past = replay(backbone, settings)

  def loss_fn(params, teacher_params, batch):
    ce_M, old_M = losses.target_cross_entropy(backbone, params, batch), batch.replay_M
    return {'new': (ce_M, ~old_M), 'old': (ce_M, old_M)}

  def plan(memory, task):
    return past.plan(memory, task)._replace(groups={'new': 'new', 'old': 'old'})

  def combine(gradients, teacher_params):
    new, old = gradients['new'], gradients['old']
    product, square = _dot(new, old), _dot(old, old)
    share = jnp.where(product < 0, product / jnp.where(square > 0, square, 1), 0)
    return jax.tree.map(lambda n, o: n - share * o, new, old)

  return past._replace(plan=plan, loss_fn=loss_fn, combine=combine)


def _dot(one: Tree, other: Tree) -> jax.Array:
  """Σ of the products of all entries -> scalar; sharded leaves stay sharded."""
  return jax.tree.reduce(jnp.add, jax.tree.map(lambda x, y: jnp.sum(x * y), one, other))
