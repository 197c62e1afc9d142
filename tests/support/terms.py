"""Norms of the gradient of each term in many ways: python -m support.terms [every]

Prints {cell: {way: {term: norm}}} as JSON; the first way of a cell is one device that computes a
row a line, in one microbatch. Without `every` a part of it. Run in a process of its own with 8 fake
CPU devices.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jcl import methods
from jcl.backbones.decoder import decoder
from jcl.batching.batch import Shape, layout
from jcl.batching.batch_shapes import packed_rungs
from jcl.step import losses, sharding, trainable
from jcl.step.term_norms import make_term_norms
from support import eight_devices as cells
from support import tiny
from support.decoders import TINY


class Way(NamedTuple):
  """How a batch is computed: `devices` in all, of which `tensor` share a layer."""

  devices: int = 1
  tensor: int = 1
  fsdp: bool = False
  microbatches: int = 1
  packed: bool = False


WAYS = {
  'one': Way(), 'packed': Way(packed=True), 'parts': Way(microbatches=4),
  'uneven': Way(3), 'fsdp': Way(8, fsdp=True),
  'all': Way(8, fsdp=True, microbatches=2, packed=True),
  'tensor': Way(8, 2), 'tensor and all': Way(8, 2, fsdp=True, microbatches=2, packed=True),
}  # fmt: skip
LLAMA = dataclasses.replace(TINY, kv_heads=4, layers=2)
# {cell: weights of its terms}; all of them have the norms of parameters, too.
WEIGHTS = {
  'lamol': {'qa': 1.0, 'gen': 0.5},
  'lamol_kd': {'qa': 1.0, 'gen': 0.5, 'kd_qa': 0.5, 'kd_gen': 0.25},
  'head': {'ce': 1.0},  # a mean a task
  'masked': {'ce': 1.0, 'ewc': 0.3},
  'adapters': {'ce': 1.0, 'ewc': 0.3},
  'layers': {'ce': 1.0, 'ewc': 0.3},
  'bfloat16': {'ce': 1.0, 'mse': 0.5},
}
OF_PARAMETERS = {'l1_norm': 0.1, 'l2_norm': 0.2}
QUICK = {'lamol': ('all',), 'adapters': ('all',), 'layers': ('tensor',)}
MOST = ('packed', 'parts', 'uneven', 'fsdp', 'all')
EVERY = {
  'lamol': MOST, 'lamol_kd': MOST, 'head': ('parts', 'uneven', 'fsdp'), 'masked': MOST,
  'adapters': ('packed', 'fsdp', 'all'), 'bfloat16': ('packed', 'fsdp', 'all'),
  'layers': ('all', 'tensor', 'tensor and all'),
}  # fmt: skip


@functools.cache
def cell_of(name: str, tensor: int) -> cells.Cell:
  """Returns the parts of an objective, for so many devices that share a layer."""
  if name in ('lamol', 'lamol_kd', 'head'):
    return cells.cell_of(name)
  if name == 'masked':  # along the dimension that is split
    rules = (('mix', np.arange(16) < 5), ('embed', np.arange(32) % 3 == 0), ('.*', True))
    return dataclasses.replace(cells.cell_of('ewc'), rules=rules)
  if name == 'bfloat16':
    backbone = decoder(dataclasses.replace(LLAMA, dropout=0.3, dtype='bfloat16'))
    method = tiny.taught(backbone)
    params, other = (tiny.params(backbone, seed) for seed in (0, 1))
    return cells.Cell(method, method.loss_fn, other, {}, params, tiny.rows())
  backbone = decoder(
    dataclasses.replace(LLAMA, dropout=0.3, lora_dropout=0.2), sharding.split_of(tensor)
  )
  method = methods.make(backbone, methods.settings('ewc'))
  params, other = (tiny.params(backbone, seed) for seed in (0, 1))
  rules: tuple = (('.*', True),)
  if name == 'adapters':
    params, rules = cells.adapters(backbone), (('lora/.*/[ab]$', True),)
    other = jax.tree.map(lambda x: 0.5 * x, params)
  plain = losses.plain(backbone)
  return cells.Cell(method, plain, tiny.past(other), {}, params, tiny.rows(), rules=rules)


def norms(name: str, way: str) -> dict[str, float]:
  """Returns {term: norm} of a cell."""
  devices, tensor, fsdp, microbatches, packed = WAYS[way]
  cell, mesh = cell_of(name, tensor), sharding.make_mesh(devices, tensor)
  blocks = sharding.blocks_of(mesh) * microbatches
  shape = Shape(-(-len(cell.rows) // blocks) * blocks, 20, 64)
  if packed:
    (shape,) = packed_rungs([cell.rows], blocks, len(cell.rows), 16)
  keys = tiny.keys(len(cell.rows))
  batch = layout(cell.rows, blocks, shape, keys, cell.tables, cell.heads)
  put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, fsdp))
  trained, frozen, masks = trainable.split(cell.params, cell.rules)
  fixed = put(frozen), sharding.place(masks, mesh), {}
  how = dict(fsdp=fsdp, tasks=cell.tasks, microbatches=microbatches, norms=losses.norms)
  fn = make_term_norms(cell.method, cell.loss_fn, mesh, **how)
  assert fn is not None
  weights = {term: np.float32(w) for term, w in (WEIGHTS[name] | OF_PARAMETERS).items()}
  given = put(trained), fixed, put(cell.teacher), weights, sharding.place_batch(batch, mesh)
  return {term: float(jax.block_until_ready(norm)) for term, norm in fn(*given).items()}


def found(asked: dict[str, Sequence[str]]) -> dict[str, dict[str, dict[str, float]]]:
  """Returns {cell: {way: {term: norm}}}, of one device first."""
  return {name: {way: norms(name, way) for way in ('one', *ways)} for name, ways in asked.items()}


if __name__ == '__main__':
  print(json.dumps(found(EVERY if 'every' in sys.argv[1:] else QUICK)))
