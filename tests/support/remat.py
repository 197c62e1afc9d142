"""Rematerialisation computes activations twice and changes nothing else."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.backbones.model_config import ModelConfig
from jcl.batching.batch import Batch
from jcl.types import Params
from support import rounding


def check_remat(
  make: Callable[[ModelConfig], Backbone],
  config: ModelConfig,
  params: Params,
  batch: Batch,
  logits: int,
) -> None:
  """Asserts equal loss and gradients with and without remat, with dropout in training.

  Args:
    make: makes a backbone of a config.
    config: of the model.
    params: of the model.
    batch: rows.
    logits: number of logits, all of which the loss is a mean of.
  """

  def loss(remat: bool) -> tuple[jax.Array, Params]:
    backbone = make(dataclasses.replace(config, remat=remat, dropout=0.2))
    f = lambda p: jnp.square(backbone.logits(p, batch, train=True)).mean()
    return jax.jit(jax.value_and_grad(f))(params)

  (found, gradient), (wanted, wanted_gradient) = loss(True), loss(False)
  size = dict(terms=logits, depth=rounding.layers(config.layers, gradient=True))
  rounding.assert_close(found, wanted, **size)
  # One scale for all leaves: terms of a key's bias cancel to 0, for softmax does not see it.
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted_gradient))
  rounding.assert_close(gradient, wanted_gradient, **size, scale=largest)
