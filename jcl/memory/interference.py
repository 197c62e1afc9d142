"""Which old rows to replay: those that learning the new ones would harm most (MIR).

Source: Aljundi et al., Online Continual Learning with Maximally Interfered Retrieval, 2019.
"""

from collections.abc import Callable

import jax

from jcl.step import device_maps


def most_interfered(term: str, candidates: int, virtual_lr: float) -> Callable:
  """An objective in which one of `candidates` old rows counts: those whose loss would rise most.

  A virtual step of gradient descent on the new rows; the rise is that of a row's mean over its
  targets of `term`. No gradient goes through the choice. One forward and backward pass and one
  forward pass more than the plain objective.

  Args:
    term: the one with the loss of old rows.
    candidates: drawn for each old row wanted.
    virtual_lr: rate of the virtual step.
  """

  def objective(plain):
    def wrapped(params, batch):
      still = jax.lax.stop_gradient(params)
      new = batch.only(~batch.replay_M)
      grads, (_, before) = jax.grad(plain, has_aux=True)(still, new)
      moved = jax.tree.map(lambda p, g: p - virtual_lr * g, still, grads)
      _, (_, after) = plain(moved, batch)
      rise_B = batch.row_mean(after[term][0] - before[term][0])
      chosen_B = device_maps.largest(rise_B, batch.replay, batch.key, candidates)
      return plain(params, batch.only(~batch.replay_M | chosen_B[batch.target_row]))

    return wrapped

  return objective
