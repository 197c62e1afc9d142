"""A model that devices share, as one device has it: python -m support.tensor [every]

Prints JSON; without `every` a part of it. Run in a process of its own with 8 fake CPU devices.
"""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np

from jcl import methods
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.tokenizers import vocabulary_size
from jcl.batching.batch import Shape, layout
from jcl.batching.batch_shapes import packed_rungs
from jcl.config import TrainConfig
from jcl.memory import fisher
from jcl.methods import Method
from jcl.preflight import collectives
from jcl.step import losses, sharding, shards, train_step, trainable
from jcl.training.hook_tools import HookTools, make_tools
from support import eight_devices as cells
from support import tiny
from support.decoders import GPT2_LIKE, TINY

LLAMA_LIKE = dataclasses.replace(TINY, kv_heads=4, layers=2)
KINDS = {
  'llama': LLAMA_LIKE,
  'gpt2': dataclasses.replace(GPT2_LIKE, layers=2),
  'few keys': dataclasses.replace(TINY, layers=2, attention_cap=5.0),
}
KINDS |= {f'{name} bf16': dataclasses.replace(x, dtype='bfloat16') for name, x in KINDS.items()}
# name: (devices, those that share a layer, fsdp)
WAYS = {
  '1': (1, 1, False), '1x2': (2, 2, False), '4x2': (8, 2, False), '4x2 fsdp': (8, 2, True),
  '2x4': (8, 4, False), '2x4 fsdp': (8, 4, True),
}  # fmt: skip
METHODS = ('seq', 'lora', 'ewc', 'lamol_kd', 'inner step', 'adversarial', 'accumulated')


def adapters(backbone) -> dict:
  """Parameters with an adapter of rank 2 on every kernel of the layers."""
  params, random = tiny.params(backbone), np.random.default_rng(2)
  draw = lambda *shape: jax.numpy.asarray(random.standard_normal(shape), jax.numpy.float32)
  found = {}
  for name, leaves in params['layers'].items():
    if 'kernel' in leaves:
      layers, wide, out = leaves['kernel'].shape
      scale = jax.numpy.full(layers, 0.5)
      found[name] = {'a': draw(layers, 2, wide), 'b': draw(layers, 2, out), 'scale': scale}
  return {**params, 'lora': {'layers': found}}


def cell_of(name: str, backbone) -> cells.Cell:
  """Returns the parts of an objective."""
  params, other = tiny.params(backbone), tiny.params(backbone, 1)
  plain, rows = losses.plain(backbone), tiny.rows()
  make = lambda of: methods.make(backbone, methods.settings(of))
  if name == 'lora':
    rules = (('lora/.*/[ab]$', True),)
    return cells.Cell(Method(), plain, {}, {}, adapters(backbone), rows, rules=rules)
  if name == 'ewc':
    return cells.Cell(make('ewc'), plain, tiny.past(other), {'ewc': 0.3}, params, rows)
  if name == 'lamol_kd':
    cell = cells.compared('lamol_kd', backbone, params, other)
    return dataclasses.replace(cell, weights={'gen': 0.5, 'kd_qa': 0.5, 'kd_gen': 0.25})
  if name == 'inner step':
    return cells.Cell(tiny.inner_step(backbone), plain, {}, {}, params, rows)
  if name == 'adversarial':
    of = Method(objective=cells.adversarial(Method().objective, backbone.width, 0.5, 1))
    return cells.Cell(of, plain, {}, {}, params, rows)
  return cells.Cell(Method(), plain, {}, {}, params, rows)


def gradient(kind: str, name: str, way: str) -> tuple[np.ndarray, np.ndarray, str]:
  """Returns loss and gradient of a batch, and the compiled program.

  Args:
    kind: of the model.
    name: of the objective; with ` packed` behind it several rows stand in a line.
    way: how devices share the work.
  """
  devices, tensor, fsdp = WAYS[way]
  shape = dataclasses.replace(KINDS[kind], dropout=0.3, lora_dropout=0.2)
  packed, name = name.endswith(' packed'), name.removesuffix(' packed')
  cell = cell_of(name, decoder(shape, sharding.split_of(tensor)))
  mesh = sharding.make_mesh(devices, tensor)
  parts = 2 if name == 'accumulated' else 1
  blocks = sharding.blocks_of(mesh) * parts
  lines = Shape(16, 20, 64)
  if packed:
    lines = packed_rungs([cell.rows], blocks, 16, shape.width)[0]._replace(targets=64)
    assert lines.lines < 16
  batch = layout(cell.rows, blocks, lines, tiny.keys(len(cell.rows)), cell.tables)
  trained, frozen, masks = trainable.split(cell.params, cell.rules)
  put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, fsdp))
  given = put(trained), put(frozen), put(cell.teacher)
  weights = {name: np.float32(value) for name, value in cell.weights.items()}
  rest = sharding.place_batch(batch, mesh), cell.groups, sharding.place(masks, mesh)
  how = dict(fsdp=fsdp, microbatches=parts)
  fn = jax.jit(train_step.make_gradient(cell.method, cell.loss_fn, mesh, **how))
  program = fn.lower(*given, weights, *rest).compile()
  (loss, _), found = jax.block_until_ready(program(*given, weights, *rest))
  return np.asarray(loss), cells.flat(found), program.as_text()


def apart(one: np.ndarray, many: np.ndarray) -> float:
  """The largest difference, as a share of the largest entry."""
  return float(np.abs(one - many).max() / np.abs(one).max())


def tools(way: str, **shape) -> HookTools:
  """Tools of a run on the stream of three tasks with a decoder of its vocabulary."""
  devices, tensor, fsdp = WAYS[way]
  of = tiny.stream()
  words = tiny.text('lamol', of)
  count = vocabulary_size(words.tokenizer)
  made = DecoderConfig(
    count, rows=-(-count // 8) * 8, width=16, layers=2, heads=4, feed_forward=24, **shape
  )
  backbone, mesh = decoder(made, sharding.split_of(tensor)), sharding.make_mesh(devices, tensor)
  return make_tools(backbone, words, of, mesh, 0, 8, train=TrainConfig(fsdp=fsdp))


@functools.cache
def hooks(way: str, by_layers: bool = False) -> dict[str, np.ndarray]:
  """Returns what hooks compute."""
  of = tools(way)
  of = dataclasses.replace(of, device_memory=0) if by_layers else of
  params = of.placed(tiny.params(of.backbone))
  examples = [e for task in of.stream.tasks for e in task.train][:8]
  rows = [row for e in examples for row in of.text.rows(e)]
  prompts = [list(row.tokens[: 4 + i % 3]) for i, row in enumerate(rows)]
  squared = fisher.squared_gradient(fisher.answer_nats(of.backbone))
  found = {
    'importance': cells.flat(of.mean_examples(squared, params, examples)),
    'states': np.concatenate(of.map_targets(of.backbone.hidden, params, rows)),
    'logits': np.concatenate(of.map_targets(of.backbone.logits, params, rows)),
  }
  for k in (1, 5):
    found[f'samples of {k}'] = of.sample(params, prompts, of.key('x'), k=k, max_new=7)
  return found


def bytes_of(kind: str, way: str) -> tuple[float, float]:
  """Returns what each device sends by sums and by gathers in a gradient of plain fine-tuning.

  What enters and leaves each half of a layer is summed over the devices that share it, forward or
  backward: four arrays of states a layer, one more for the embedding, and the states at targets.
  The logits are gathered. Gradients are summed over the other devices.
  """
  devices, tensor, _ = WAYS[way]
  config, mesh = KINDS[kind], sharding.make_mesh(devices, tensor)
  others = devices // tensor
  states = 16 // others * 20 * config.width * 4
  at_targets = 64 * config.width * 4
  params = jax.eval_shape(decoder(config).init, jax.random.key(0))
  ring = lambda count: 2 * (count - 1) / count
  sums = ring(tensor) * ((4 * config.layers + 1) * states + at_targets)
  gathers = ring(tensor) / 2 * 64 * config.rows * 4
  return sums + ring(others) * shards.whole_bytes(params, mesh), gathers


def compared(kind: str, name: str, way: str) -> dict:
  """Differences from one device, and bytes that are sent beside those that must be.

  Of bfloat16 the distance of the gradient from that of float32 is a multiple of one device's.
  """
  loss, of_one, _ = once(kind, name.removesuffix(' packed'))
  other_loss, many, text = gradient(kind, name, way)
  if kind.endswith(' bf16'):
    exact = once(kind.removesuffix(' bf16'), name.removesuffix(' packed'))[1]
    errors = [float(np.linalg.norm(x - exact)) for x in (of_one, many)]
    return {'narrow loss': apart(loss, other_loss), 'narrow gradient': errors[1] / errors[0]}
  found = {'loss': apart(loss, other_loss), 'gradient': apart(of_one, many)}
  if name == 'seq' and not WAYS[way][2]:
    sent = {key: kind.sent for key, kind in collectives.count(text).items()}
    wanted = bytes_of(kind, way)
    found['sums'], found['gathers'] = (
      sent[key] - value for key, value in zip(('all-reduce', 'all-gather'), wanted, strict=True)
    )
    found['sent otherwise'] = sorted(sent.keys() - {'all-reduce', 'all-gather'})
  return found


@functools.cache
def once(kind: str, name: str) -> tuple[np.ndarray, np.ndarray, str]:
  """Returns what one device computes."""
  return gradient(kind, name, '1')


def of_hooks(way: str, by_layers: bool) -> dict:
  """Differences from one device of what hooks compute; False where other tokens are drawn."""
  one, many = hooks('1'), hooks(way, by_layers)
  exact = lambda x, y: bool((x == y).all())
  return {
    name: (apart if value.dtype.kind == 'f' else exact)(one[name], value)
    for name, value in many.items()
  }


SOME = [('llama', 'seq', '4x2'), ('llama', 'seq', '2x4'), ('gpt2', 'lora', '4x2 fsdp')]
SOME += [('llama', 'seq packed', '4x2 fsdp'), ('llama bf16', 'seq', '4x2 fsdp')]
EVERY = [
  (kind, name, way)
  for kind in ('llama', 'gpt2') for name in METHODS for way in ('4x2', '2x4 fsdp')
] + [
  ('few keys', 'seq', '4x2'), ('gpt2', 'seq', '2x4'), ('gpt2', 'lora', '1x2'),
  ('gpt2', 'lamol_kd packed', '2x4 fsdp'), ('llama', 'accumulated packed', '4x2'),
]  # fmt: skip


def main(every: bool) -> None:
  """Prints all of it, or a part."""
  found = {' '.join(cell): compared(*cell) for cell in (SOME + EVERY if every else SOME)}
  found['hooks 4x2 fsdp'] = of_hooks('4x2 fsdp', False)
  if every:
    found['hooks 2x4'] = of_hooks('2x4', False)
    found['hooks 4x2 fsdp by layers'] = of_hooks('4x2 fsdp', True)
  print(json.dumps(found))


if __name__ == '__main__':
  main('every' in sys.argv[1:])
