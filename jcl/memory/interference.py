"""Maximally interfered retrieval (MIR): replay the old rows whose loss a step would raise most.

Source: Aljundi et al., Online Continual Learning with Maximally Interfered Retrieval, 2019.
"""

from collections.abc import Callable

import jax

from jcl.step import device_maps


def most_interfered(term: str, candidates: int, virtual_lr: float) -> Callable:
  """Returns an objective in which one in `candidates` old rows counts, by the rise of its loss.

  A virtual step of gradient descent on the new rows gives the rise of each old row's mean `term`
  over its targets; the rows with the largest rise count. The choice has no gradient. It costs one
  forward and backward pass and one forward pass on top of the plain objective.

  Args:
    term: of the loss, the one of old rows.
    candidates: number of old rows drawn for each row that counts.
    virtual_lr: learning rate of the virtual step.
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
