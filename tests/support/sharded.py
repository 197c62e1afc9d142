"""What a sharded model gives on 8 devices and on one: python -m support.sharded FOLDER [every]

Prints JSON; without `every` a part of it. Run in a process of its own with 8 fake CPU devices.
FOLDER is a new one.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np

from jcl import methods
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf, stored
from jcl.backbones.tokenizers import vocabulary_size
from jcl.config import Config, TrainConfig
from jcl.memory import fisher
from jcl.preflight import collectives, first_step, phases
from jcl.step import sharding
from jcl.step.optimizer import make_optimizer
from jcl.training import experiment
from jcl.training.hook_tools import HookTools, make_tools
from jcl.training.model_digest import digest
from jcl.types import Tree
from support import config_folder, external, gguf_files, model_folder, tiny
from support.decoders import TINY

DEVICES = 8
MODELS = {
  'tied': {},
  'untied, bfloat16': {'tied': False, 'dtype': 'bfloat16'},
  'biases': {'norm': 'layer', 'gated': False, 'qkv_bias': True, 'o_bias': True, 'mlp_bias': True},
}
FAMILIES = ('llama', 'gpt2', 'phi3', 'neox', 'gemma')
GGUF = ('F32', 'F16', 'Q8_0')
WIDE = config_folder.SMALL | {
  'hidden_size': 64, 'intermediate_size': 512, 'num_hidden_layers': 4, 'num_attention_heads': 4,
  'num_key_value_heads': 4, 'vocab_size': 64,
}  # fmt: skip
WHOLE = 4 * 64 * 512 * 4  # bytes of the largest leaf of WIDE


def tools(devices: int, fsdp: bool, **shape) -> HookTools:
  """Tools of a run on the stream of three tasks with a decoder of its vocabulary."""
  of = tiny.stream()
  words = tiny.text('lamol', of)
  count = vocabulary_size(words.tokenizer)
  rows = -(-count // DEVICES) * DEVICES
  made = DecoderConfig(count, rows=rows, width=16, layers=2, heads=4, feed_forward=24, **shape)
  how = of, sharding.make_mesh(devices), 0, DEVICES
  return make_tools(decoder(made), words, *how, train=TrainConfig(fsdp=fsdp))


def apart(one: Tree, many: Tree) -> float:
  """The largest difference of two trees, as a share of the largest entry of the first."""
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(jax.device_get(one)))
  differences = jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - y).max()), one, many)
  return max(jax.tree.leaves(differences)) / largest


def placed_as(tree: Tree, like: Tree) -> bool:
  """Whether every leaf is sharded as the same leaf of another tree."""
  same = jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), tree, like)
  return all(jax.tree.leaves(same))


def same(one: Tree, many: Tree) -> bool:
  """Whether two trees have the same bits."""
  found = jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), one, many)
  return all(jax.tree.leaves(found))


def computed(shape: dict, every: bool) -> dict:
  """Differences between eight devices and one, of what hooks compute with a model."""
  one, many = tools(1, False, **shape), tools(DEVICES, True, **shape)
  params = tiny.params(one.backbone)
  theirs = many.placed(params)
  examples = [e for task in one.stream.tasks for e in task.train][:13]
  found = {}
  for name, of in (
    ('fisher', fisher.squared_gradient(fisher.answer_nats(one.backbone))),
    ('sampled', fisher.squared_gradient(fisher.answer_nats(one.backbone, 'sampled', 'sum'))),
    ('mas', fisher.absolute_gradient(fisher.output_size(one.backbone))),
  ):
    whole, parts = one.mean_examples(of, params, examples), many.mean_examples(of, theirs, examples)
    found[name] = apart(whole, parts)
    found[f'{name} sharded'] = placed_as(parts, theirs)
    if not every:
      return found
  rows = [row for e in examples for row in one.text.rows(e)]
  ways = (one, params), (many, theirs)
  states = [t.map_targets(t.backbone.hidden, p, rows) for t, p in ways]
  found['states'] = apart(*states)
  prompts = [list(row.tokens[: 4 + i % 3]) for i, row in enumerate(rows)]
  for k in (1, 5):
    drawn = [t.sample(p, prompts, t.key('x'), k=k, max_new=7) for t, p in ways]
    found[f'samples of {k}'] = same(*drawn)
  return found


def by_layers() -> dict:
  """Whether phases have the same bits with layers gathered one at a time and all at once.

  Compiled as users do: elsewhere a product is computed by the layout in which its factors stand.
  """
  fast = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', False)
  once = tools(DEVICES, True, dtype='bfloat16')
  layered = dataclasses.replace(once, device_memory=0)
  params = once.placed(tiny.params(once.backbone))
  examples = [e for task in once.stream.tasks for e in task.train][:DEVICES]
  rows = [row for e in examples for row in once.text.rows(e)]
  prompts = [list(row.tokens[:4]) for row in rows]
  squared = fisher.squared_gradient(fisher.answer_nats(once.backbone))
  ways = {
    'importance': lambda of: of.mean_examples(squared, params, examples),
    'states': lambda of: of.map_targets(of.backbone.hidden, params, rows),
    'samples': lambda of: of.sample(params, prompts, of.key('x'), k=5, max_new=4),
  }
  found = {name: same(way(once), way(layered)) for name, way in ways.items()}
  jax.config.update('jax_disable_most_optimizations', fast)
  return found


def born() -> dict:
  """Whether parameters and moments are made where they belong, with the bits of one device."""
  many = tools(DEVICES, True)
  key, init = many.key('init'), many.backbone.init
  wanted, found = many.placed(init(key)), sharding.born(init, many.mesh, True)(key)
  same = jax.tree.map(lambda x, y: bool((np.asarray(x) == y).all()), wanted, found)
  moments = sharding.born(make_optimizer(TrainConfig(learning_rate=0.1)).init, many.mesh, True)
  adam = next(state for state in moments(found) if hasattr(state, 'mu'))
  return {
    'bits': all(jax.tree.leaves(same)), 'parameters': placed_as(found, wanted),
    'moments': placed_as(adam.mu, wanted) and placed_as(adam.nu, wanted),
    'digest': digest(found) == digest(jax.device_get(wanted)),
  }  # fmt: skip


def loaded(whole: hf.Loaded, parts: hf.Loaded) -> dict:
  """Figures of the parts that loading a model onto the devices reads."""
  mesh, cut, sizes = sharding.make_mesh(DEVICES), stored._cut, []

  def counted(*given):
    found = cut(*given)
    sizes.append(found.size)
    return found

  stored._cut = counted
  specs = sharding.specs(whole.params, mesh, fsdp=True)
  placed = sharding.place(parts.params, mesh, specs)
  stored._cut = cut
  same = jax.tree.map(lambda x, y: bool((x == np.asarray(y)).all()), whole.params, placed)
  there = jax.tree.map(lambda x, spec: x.sharding.spec == spec, placed, specs)
  leaves = jax.tree.leaves(whole.params)
  return {
    'bits': all(jax.tree.leaves(same)), 'sharded': all(jax.tree.leaves(there)),
    'read': sum(sizes) / sum(x.size for x in leaves), 'largest': max(sizes),
    'leaf': max(x.size for x in leaves),
  }  # fmt: skip


def taught(folder: pathlib.Path) -> dict:
  """Figures of a teacher in another folder, whose states are or are not kept."""
  path, cut, found = external.written(folder / 'teacher'), stored._cut, {}
  whole = hf.load(str(path)).params
  leaf = max(x.size for x in jax.tree.leaves(whole))
  for cache_mb in (0, 2048):
    config, sizes = external.config(path, train={'fsdp': True, 'packing': 'off'}), []
    config.method.teacher_cache_mb = cache_mb
    parts = experiment.assemble(config, sharding.make_mesh(DEVICES))

    def counted(*given, sizes=sizes):
      values = cut(*given)
      sizes.append(values.size)
      return values

    stored._cut = counted
    memory = parts.method.init(parts.initial_params(), parts.stream, parts.tools)
    memory, _ = parts.method.before_task(memory, {}, parts.stream.tasks[0], parts.tools)
    stored._cut = cut
    teacher = memory['teacher']
    if not cache_mb:
      shards = sharding.specs(whole, parts.tools.mesh, fsdp=True)
      there = jax.tree.map(lambda x, spec: x.sharding.spec == spec, teacher, shards)
      found['sharded'] = all(jax.tree.leaves(there))
      found['bits'] = same(teacher, whole)
    found[f'largest {cache_mb}'] = max(sizes) / leaf
    found[f'read {cache_mb}'] = sum(sizes) / sum(x.size for x in jax.tree.leaves(whole))
  return found


def from_files(folder: pathlib.Path) -> dict:
  """Figures of the parts that are read of folders and GGUF files."""
  found = {}
  for name in FAMILIES:
    path = str(model_folder.write(folder / name, model_folder.golden(name)))
    found[name] = loaded(hf.load(path), hf.load(path, stored=True))
  shape = dataclasses.replace(TINY, width=32, head_dim=8, feed_forward=64)
  params = jax.tree.map(np.asarray, tiny.params(decoder(shape)))
  for kind in GGUF:
    file = gguf_files.write(folder / f'{kind}.gguf', params, shape, kind=kind)
    found[kind] = loaded(hf.load(file), hf.load(file, stored=True))
  return found


def planned(folder: pathlib.Path, method: str) -> dict:
  """The section of phases of a plan, for a model whose leaves are larger than all else."""
  made = Config(method=methods.settings(method), train=TrainConfig(batch_size=8, fsdp=True))
  made.backbone.path, made.evaluate.batch_size = str(folder), 8
  mesh = sharding.make_mesh(DEVICES)
  now = first_step.outline(made, mesh, tokens=16)
  return phases.section(now, 0).values['phases']


def gathers(folder: pathlib.Path) -> dict:
  """Bytes that each phase gathers, a layer at a time and once, and that gathering itself sends."""
  made = Config(method=methods.settings('ewc'), train=TrainConfig(batch_size=8, fsdp=True))
  made.backbone.path, made.evaluate.batch_size = str(folder), 8
  made.backbone.dtype = 'bfloat16'
  now = first_step.outline(made, sharding.make_mesh(DEVICES), tokens=16)
  sent = lambda text: sum(
    kind.sent for name, kind in collectives.count(text).items() if name == 'all-gather'
  )
  found = {}
  for memory in (0, None):
    for name, program in phases.programs(now, memory).items():
      text = program.call.lower(*program.arguments).compile().as_text()
      found[f'{name} {memory}'] = [program.whole, sent(text)]
  gathered = now.parts.tools.maps.gathered(True).lower(now.params)
  leaves = jax.tree.leaves(now.params)
  return found | {
    'gathering': sent(gathered.compile().as_text()), 'sent as': gathered.as_text().count('bf16'),
    'split': sum(x.size * 4 for x in leaves if not x.sharding.is_fully_replicated),
  }  # fmt: skip


def main(folder: pathlib.Path, every: bool) -> None:
  """Prints all of it, or a part."""
  wide = pathlib.Path(config_folder.folder(folder, WIDE))
  found = {
    'computed': {
      name: computed(shape, every) for name, shape in MODELS.items() if every or name == 'tied'
    },
    'by layers': by_layers(), 'gathers': gathers(wide), 'taught': taught(folder),
    'born': born(), 'loaded': from_files(folder),
    'phases': {name: planned(wide, name) for name in ('ewc', 'lamol_kd', 'lora') if every},
  }  # fmt: skip
  print(json.dumps(found))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), 'every' in sys.argv[2:])
