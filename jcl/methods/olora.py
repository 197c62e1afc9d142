"""Orthogonal LoRA, O-LoRA (Wang et al. 2023): stacked adapters in orthogonal subspaces.

L = CE(new) + lambda_olora · Σ_earlier Σ_ij |(A_earlierᵀ A_own)_ij|
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.config import number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.lora import Lora, lora, own
from jcl.methods.method import Method, require


@dataclasses.dataclass
class Olora(Lora):
  """The adapters of earlier tasks stay frozen below the adapter of the task."""

  stack: bool = True  # must be true
  lambda_olora: float = number(0.5, least=0)  # weight of the overlap
  neutral: ClassVar = {'lambda_olora': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and adapters that are not stacked."""
    super().check()
    require(self.stack, 'stack', self.stack, 'true: the earlier adapters must be there')

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `olora`."""
    return olora(backbone, self)


def olora(backbone: Backbone, settings: Olora) -> Method:
  """Returns the method; `teacher` says which columns of the adapter are earlier and own."""
  base = lora(backbone, settings)

  def init(params, stream, tools):
    memory = base.init(params, stream, tools)
    nothing_R = np.zeros(memory['rank'], np.float32)
    return memory | {'teacher': {'own': nothing_R, 'earlier': nothing_R}}

  def before_task(memory, params, task, tools):
    memory, params = base.before_task(memory, params, task, tools)
    own_R = np.float32(own(memory, task, settings))
    earlier_R = np.float32(np.arange(memory['rank']) < task.index * settings.r)
    return memory | {'teacher': {'own': own_R, 'earlier': earlier_R}}, params

  def penalty_fn(params, teacher_params):
    own_1R, earlier_R1 = teacher_params['own'][None, None], teacher_params['earlier'][None, :, None]
    overlap = jnp.float32(0)
    for part in params.get('lora', {'layers': {}})['layers'].values():
      product_LRR = jnp.einsum('lri,lsi->lrs', part['a'], part['a'])
      overlap += (jnp.abs(product_LRR) * earlier_R1 * own_1R).sum()
    return {'overlap': overlap}

  def plan(memory, task):
    return base.plan(memory, task)._replace(weights={'overlap': settings.lambda_olora})

  return base._replace(init=init, before_task=before_task, penalty_fn=penalty_fn, plan=plan)
