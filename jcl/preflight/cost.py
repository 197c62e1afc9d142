"""The cost of a run before it starts: nothing is trained and no parameter is allocated.

The page is a list of sections. The train step is compiled from shapes and shardings, for any number
of devices: XLA reports the size of its temporaries, and `flops` counts its operations.
"""

import math
from collections.abc import Callable, Sequence

import jax

from jcl import methods
from jcl.config import Config
from jcl.errors import count_of
from jcl.preflight import checks
from jcl.preflight import page as sections
from jcl.preflight.first_step import Outline, is_textless, outline
from jcl.preflight.footprint import device_bytes, short
from jcl.preflight.page import Section
from jcl.step import flops, sharding
from jcl.step.numerics import computing
from jcl.types import Json, Tree

NEED_TEXT = ['rows', 'tokens', 'disk', 'warnings']  # sections


@computing
def page(
  config: Config, devices: int, tokens: int = 0, targets: int = 0, workdir: str | None = None,
  more: Sequence[Callable[[Outline], Section]] = (),
) -> list[Section]:  # fmt: skip
  """Returns the sections of a plan.

  Args:
    config: of the run.
    devices: that it would have; as many must exist, as fake CPU devices.
    tokens: a row; 0: the stream is read and its largest batch taken. Otherwise neither text nor
      tokenizer need be there, config.json is enough.
    targets: a row, with `tokens`; 0: every token is one.
    workdir: that it would be written to, whose room is looked at; None: no machine is meant.
    more: sections that are asked for beside those of every page.

  Raises:
    UserError: for settings or files that cannot be used, or a stream that cannot be learned.
  """
  now = outline(config, sharding.make_mesh(devices, config.train.tensor), tokens, targets)
  if is_textless(config, tokens):
    asked = [make(now) for make in more]
    return [assumed(now, left_out=True), memory(now), *asked, operations(now)]
  checkup = checks.checkup(now.parts)
  checks.refuse(checkup)
  read = [sections.rows(checkup), sections.tokens(checkup)]
  held = [memory(now, checkup.footprint.device), *(make(now) for make in more)]
  held.append(sections.disk(checkup, workdir))
  return [assumed(now), *read, *held, operations(now), sections.warnings(checkup, workdir)]


def assumed(now: Outline, left_out: bool = False) -> Section:
  """Section: the model, devices and batch that the other sections are about.

  Args:
    now: the first step.
    left_out: sections that need the text are left out, and a note says so.
  """
  parts, train, shape = now.parts, now.parts.config.train, now.shape
  devices, config = parts.tools.mesh.size, parts.decoder_config
  blocks = now.blocks
  values = {
    'method': methods.name_of(parts.config.method),
    'parameters': _elements(now.params),
    'parameters_trained': _elements(now.trained),
    'layers': config.layers,
    'vocabulary': config.vocabulary,
    'embedding_rows': config.rows,
    'dtype': config.dtype,
    'devices': devices,
    'fsdp': train.fsdp,
    'tensor': train.tensor,
    'microbatches': train.microbatches,
    'rows': shape.rows,
    'lines': shape.lines or shape.rows,
    'tokens_per_row': shape.tokens,
    'targets': shape.targets * blocks,
    'batch_from': now.source,
    'learning_rate': train.learning_rate,
    'order_seed': parts.config.stream.order_seed,
  }
  whole, trained = (_elements(t) for t in (now.params, now.trained))
  how = 'FSDP, parameters sharded' if train.fsdp else 'data parallel, parameters on every device'
  if train.tensor > 1:
    how += f'; {train.tensor} devices share each layer'
  rows = [
    ['model', f'{whole / 1e6:,.2f} million parameters, {trained / 1e6:,.2f} of them train; '
     f'{count_of(config.layers, "layer")}, {config.rows:,} rows of the embedding, computes in '
     f'{config.dtype}'],
    ['devices', f'{devices}, {how}'],
    ['batch', f'{shape.words}, {count_of(shape.targets * blocks, "target")}, '
     f'in {count_of(blocks, "block")} (devices × microbatches)'],
    ['from', now.source],
    ['rate', checks.learning_rates(parts) if now.inputs else 'no step is taken: hooks alone learn'],
  ]  # fmt: skip
  if now.padding is not None:
    values['packed'] = bool(shape.lines)
    values['padding'], values['padding_unpacked'] = now.padding
    rows.insert(3, ['padding', _padding(bool(shape.lines), *now.padding)])
  if parts.stream.name:  # not the stand-in of a run whose text is not read
    rows.append(['order', checks.order_of_tasks(parts)])
    values['order_of_tasks'] = [task.name for task in parts.stream.tasks]
  width, notes = max(len(row[1]) for row in rows), []
  if left_out:
    values['left_out'] = NEED_TEXT
    notes = [f'left out, for they need the text: {", ".join(NEED_TEXT)}; run it without --tokens']
  return Section('assumed', 'assumed', values, [[a, b.ljust(width)] for a, b in rows], notes)


def _padding(packed: bool, share: float, unpacked: float) -> str:
  """Returns how much of a step is padding, and whether rows are packed, in words."""
  if not packed:
    return f'{share:.1%} of the tokens of a step; a row has a line of its own'
  return f'{share:.1%} of the tokens of a step, {unpacked:.1%} if rows were not packed'


def memory(now: Outline, largest: dict[str, int] | None = None) -> Section:
  """Section: bytes on each device while a step runs.

  Args:
    now: the first step.
    largest: `Footprint.device`, that of the task which takes most; None: not known.
  """
  stats = now.compiled.memory_analysis()
  assert stats is not None, 'XLA reports the memory of every program that it compiles'
  # Results that do not take the place of donated arguments stand beside the temporaries.
  beside = stats.output_size_in_bytes - stats.alias_size_in_bytes
  temporaries = stats.temp_size_in_bytes + beside
  held = now.held
  trees = {**held, 'batch': now.batch}
  values: Json = {name: device_bytes(tree) for name, tree in trees.items()}
  values['activations'] = max(temporaries - values['gradients'], 0)
  values['total'] = sum(values.values())
  whole = {name: _elements(tree, size=True) for name, tree in trees.items()}
  names = {
    'parameters': 'parameters', 'gradients': 'gradients', 'optimizer': 'optimiser',
    'teacher': 'teacher', 'batch': 'batch', 'start_of_task': 'start of the task',
    'activations': 'activations', 'total': 'total',
  }  # fmt: skip
  rows = [['', 'bytes', '', 'unsharded']]
  for name, words in names.items():
    unsharded = short(whole[name], 'B') if name in whole else '·'
    rows.append([words, f'{values[name]:,}', short(values[name], 'B'), unsharded])
  notes = [
    'start of the task: what trains and the teacher, as the loop keeps them; with fsdp the best',
    "gradients and activations: temporaries as XLA's CPU compiler lays them out; a GPU's differ",
  ]
  if now.parts.decoder_config.dtype != 'float32':
    notes.append('it does much of bfloat16 in float32, which makes the activations the larger')
  first = sum(values[name] for name in held)
  if largest is not None and largest['total'] > first:
    notes.append(
      f'in the task that takes most all but batch and activations is {short(largest["total"], "B")}'
      f' ({short(first, "B")} here), with what the memory of the method keeps on a device'
    )
  values = {'per_device': values, 'unsharded': whole, 'largest_task': largest}
  return Section('memory', 'bytes on each device', values, rows, notes)


def operations(now: Outline) -> Section:
  """Section: floating-point operations of a step."""
  devices, program = now.parts.tools.mesh.size, now.program
  step, forward, held = flops.count(program, *now.arguments), 0.0, 0.0
  if now.inputs is None:
    forward = step.mapped
  else:
    # On the loss alone no gradient depends: what is left of the step is its forward pass.
    forward = flops.count(lambda *args: program(*args)[1]['loss'], *now.arguments).mapped
    # Outside the mapped part all is elementwise: a device computes what it holds of the leaves.
    held = device_bytes(now.trained) / _elements(now.trained, size=True)
  device = {
    'forward': forward,
    'backward': step.mapped - forward,
    'optimizer': step.whole * held,
    'total': step.mapped + step.whole * held,
  }
  every = {name: value * devices for name, value in device.items()}
  shape = now.shape
  factor = 2 if now.inputs is None else 6
  simple = factor * _elements(now.params) * shape.places
  names = {'optimizer': 'optimiser and penalties'}
  rows = [['', 'all devices', '', 'each device', '']]
  for name in device:
    both = [c for v in (every[name], device[name]) for c in (f'{v:,.0f}', short(v, 'FLOP'))]
    rows.append([names.get(name, name), *both])
  notes = [
    "XLA's cost of every operation times the turns of the loops that it stands in, padding too",
    f'{factor} · parameters · tokens = {short(simple, "FLOP")}, of which the total is '
    f'{every["total"] / simple:.2f}',
  ]
  if now.parts.config.backbone.remat:
    notes.append('backward: with what backbone.remat computes again')
  values = {'all_devices': every, 'per_device': device, 'six_n_tokens': simple}
  return Section('flops', 'floating-point operations of a step', values, rows, notes)


def _elements(tree: Tree, size: bool = False) -> int:
  """Returns the number of elements in a tree of shapes, or with `size` their bytes."""
  leaves = jax.tree.leaves(tree)
  return sum(math.prod(x.shape) * (x.dtype.itemsize if size else 1) for x in leaves)
