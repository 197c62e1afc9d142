"""Model-agnostic meta-learning, MAML (Finn et al. 2017), in its online-aware form.

L = CE(new and old rows) at θ − inner_lr · ∇CE(new rows)(θ)
"""

import dataclasses
from typing import ClassVar

import jax

from jcl.backbones import Backbone
from jcl.config import choice, number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, require
from jcl.methods.replay import Replay, replay


@dataclasses.dataclass
class Maml(Replay):
  """The buffer is that of `replay`; the inner steps are on the new rows of the batch."""

  # Old rows make up half of every batch (`batch`), or are mixed into each epoch (`dataset`).
  level: str = choice('batch', 'dataset')
  inner_lr: float = number(1e-2, least=0)  # rate of the inner steps of gradient descent
  inner_steps: int = number(1, least=1)  # gradient steps on the new rows
  first_order: bool = False  # no second derivatives
  brings: ClassVar = ('rows', 'objective')
  neutral: ClassVar = {'inner_lr': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a second wrapper of the objective."""
    super().check()
    right = "'random': the inner step is the method's own"
    require(self.select == 'random', 'select', self.select, right)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `maml`."""
    return maml(backbone, self)


def maml(backbone: Backbone, settings: Maml) -> Method:
  """Returns the method: `replay` with an objective that takes the inner steps first."""

  def objective(plain):
    def wrapped(params, batch):
      new = batch.only(~batch.replay_M)
      for _ in range(settings.inner_steps):
        grads, _ = jax.grad(plain, has_aux=True)(params, new)
        if settings.first_order:
          grads = jax.lax.stop_gradient(grads)
        params = jax.tree.map(lambda p, g: p - settings.inner_lr * g, params, grads)
      return plain(params, batch)

    return wrapped

  return replay(backbone, settings)._replace(objective=objective)
