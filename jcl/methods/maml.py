"""MAML (Finn et al. 2017), online-aware: L(θ − inner_lr·∇L_new(θ)), L over new and old rows."""

import dataclasses
from typing import Any, ClassVar

import jax

from jcl.config import choice, number
from jcl.methods.method import Method, require
from jcl.methods.replay import Replay, replay


@dataclasses.dataclass
class Maml(Replay):
  """The buffer is that of `replay`; a step down the new rows' loss must not harm the old ones."""

  level: str = choice('batch', 'dataset')  # half of every batch | mixed into the epoch
  inner_lr: float = number(1e-2, least=0)  # rate of the inner steps, plain gradient descent
  inner_steps: int = number(1, least=1)  # gradient steps on the new rows
  first_order: bool = False  # no gradient through the inner gradients
  brings: ClassVar = ('rows', 'objective')
  neutral: ClassVar = {'inner_lr': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a second wrapper of the objective."""
    super().check()
    right = "'random': the inner step is the method's own"
    require(self.select == 'random', 'select', self.select, right)

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `maml`."""
    return maml(backbone, self)


def maml(backbone, settings: Maml) -> Method:
  """Plain cross-entropy of all rows, where the inner steps on the new ones lead."""

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
