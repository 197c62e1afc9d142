"""The cost of a run before it starts: nothing is trained and no parameter is allocated.

The page is a list of sections. The train step is compiled from shapes and shardings, for any number
of devices: XLA reports the size of its temporaries, and `flops` counts its operations.
"""

import copy
import dataclasses
import functools
import math

import jax
import numpy as np
from jax.sharding import Mesh

from jcl import methods
from jcl.backbones.decoder_config import from_scratch, with_settings
from jcl.backbones.models import make_backbone
from jcl.backbones.new_tokens import with_new_tokens
from jcl.backbones.tokenizers import add_tokens, word_tokenizer
from jcl.batching import batch as batches
from jcl.batching.text_formats import Text, added_tokens
from jcl.config import BackboneConfig, Config
from jcl.errors import UserError, count_of
from jcl.preflight import checks, flops
from jcl.preflight import page as sections
from jcl.preflight.footprint import (
  device_bytes,
  outlined_inputs,
  resident,
  shape_only,
  short,
)
from jcl.preflight.page import Section
from jcl.step import rates, sharding
from jcl.step.numerics import computing
from jcl.streams.stream import Example, Stream, Task, TaskPlan
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader
from jcl.training.experiment import Experiment
from jcl.training.hook_tools import make_tools
from jcl.training.step_inputs import StepInputs
from jcl.types import Json, Params, Tree

NEED_TEXT = ['rows', 'tokens', 'disk', 'warnings']  # sections


@dataclasses.dataclass(frozen=True)
class Outline:
  """A run's first step as shapes with shardings; `arguments` are what the train step takes.

  Attributes:
    parts: of the run, without weights.
    params: all parameters as the run holds them between tasks.
    plan: of the task.
    shape: of the batch.
    source: where that shape comes from.
    inputs, batch: of the train step.
    padding: share of the places of the first epoch's steps that are padding, as they are and
      unpacked; None: the text was not read.
  """

  parts: Experiment
  params: Params
  plan: TaskPlan
  shape: batches.Shape
  source: str
  inputs: StepInputs
  batch: Tree
  padding: tuple[float, float] | None = None

  @property
  def arguments(self) -> tuple:
    """The arguments of the train step."""
    scalar = jax.ShapeDtypeStruct((), np.float32)
    state, fixed, weights, groups = self.inputs
    return state, fixed, dict.fromkeys(weights, scalar), scalar, self.batch, groups

  @functools.cached_property
  def compiled(self) -> jax.stages.Compiled:
    """The train step, compiled for the devices of the mesh."""
    return self.parts.train_step().lower(*self.arguments).compile()


@computing
def page(
  config: Config, devices: int, tokens: int = 0, targets: int = 0, workdir: str | None = None
) -> list[Section]:
  """Returns the sections of a plan.

  Args:
    config: of the run.
    devices: that it would have; as many must exist, as fake CPU devices.
    tokens: a row; 0: the stream is read and its largest batch taken. Otherwise neither text nor
      tokenizer need be there, config.json is enough.
    targets: a row, with `tokens`; 0: every token is one.
    workdir: that it would be written to, whose room is looked at; None: no machine is meant.

  Raises:
    UserError: for settings or files that cannot be used, or a stream that cannot be learned.
  """
  now = outline(config, sharding.make_mesh(devices), tokens, targets)
  if _is_textless(config, tokens):
    return [assumed(now, left_out=True), memory(now), operations(now)]
  checkup = checks.checkup(now.parts)
  checks.refuse(checkup)
  read = [sections.rows(checkup), sections.tokens(checkup)]
  held = [memory(now, checkup.footprint.device), sections.disk(checkup, workdir)]
  return [assumed(now), *read, *held, operations(now), sections.warnings(checkup, workdir)]


def outline(config: Config, mesh: Mesh, tokens: int = 0, targets: int = 0) -> Outline:
  """Outlines the first step of a run; arguments as in `page`."""
  return outline_of(assembled(config, mesh, tokens), tokens, targets)


def assembled(config: Config, mesh: Mesh, tokens: int = 0) -> Experiment:
  """Assembles a run without weights; arguments as in `page`."""
  return _parts(config, mesh, textless=_is_textless(config, tokens))


def outline_of(parts: Experiment, tokens: int = 0, targets: int = 0) -> Outline:
  """Outlines the first step of a run that is assembled, on its mesh; the rest as in `page`."""
  mesh = parts.tools.mesh
  whole = jax.eval_shape(parts.backbone.init, jax.random.key(0))
  task, plan, whole, teacher = _first_task(parts, whole)
  padding = None
  if tokens:
    shape, source = _given_shape(parts, tokens, targets), '--tokens'
  else:
    loader = BatchLoader(plan, task.index, parts.tools.at(task.index), parts.config.train)
    shape, padding = loader.largest, loader.padding()
    source = f'largest of task {task.name}, {parts.stream.name}'
  fsdp = parts.config.train.fsdp
  put = lambda tree: sharding.outline(tree, mesh, sharding.specs(tree, mesh, fsdp))
  inputs = outlined_inputs(parts, whole, teacher, plan)
  blocks = mesh.size * parts.config.train.microbatches
  heads = parts.tools.at(task.index).heads
  empty = batches.layout([], blocks, shape, tables=plan.tables, heads=heads)
  batch = sharding.outline(empty, mesh, sharding.ROWS)
  return Outline(parts, put(whole), plan, shape, source, inputs, batch, padding)


def _is_textless(config: Config, tokens: int) -> bool:
  """Whether the page is made without reading stream and tokenizer."""
  return bool(tokens and config.backbone.path)


def _parts(config: Config, mesh: Mesh, textless: bool) -> Experiment:
  """Assembles the run without weights; if `textless`, without stream and tokenizer too."""
  experiment.check(config)
  settings = config.backbone
  # Refused here if at all: below the attention of a GPU is replaced by what a CPU can compile.
  from_scratch(BackboneConfig(dtype=settings.dtype, attention=settings.attention), vocabulary=1)
  config = copy.deepcopy(config)
  if settings.attention == 'cudnn':
    config.train.packing = 'off'  # which it cannot have, and 'xla' could
  config.backbone.attention = 'xla'
  if textless and settings.head:
    raise UserError('--tokens cannot be had with backbone.head: its classes stand in the stream')
  if textless and config.method.teacher_path:
    raise UserError('--tokens cannot be had with method.teacher_path: it needs the tokenizers')
  if textless:
    return _textless(config, mesh)
  if not settings.path:
    return experiment.assemble(config, mesh)
  from jcl.backbones.files import hf

  # A model of unknown kind is refused for that, not for want of text.
  hf.load_config(settings.path, settings.family)
  try:
    return experiment.assemble(config, mesh, weights=False)
  except UserError as error:
    raise UserError(f'{error}; or give --tokens=T, which needs no text') from None


def _textless(config: Config, mesh: Mesh) -> Experiment:
  """Assembles the run on a stand-in stream of one example, so that its hooks can be called."""
  from jcl.backbones.files import hf

  # A stand-in row will do for blocks of raw text: the batch's shape is given.
  text_format = 'plain' if config.scenario == 'cpt' else config.method.text_format
  names = added_tokens(text_format, max(config.stream.max_tasks, 1))
  config, rate_origin = rates.with_rate(config, pretrained=True)
  shape = with_settings(
    hf.load_config(config.backbone.path, config.backbone.family), config.backbone
  )
  added = range(shape.vocabulary, shape.vocabulary + len(names))
  shape = with_new_tokens(shape, len(names)) if names else shape
  stream = Stream('', (Task(0, '', (Example(0, 'a', 'a', 0),), (), (), (), True),))
  tokenizer, special = word_tokenizer(['a'])
  add_tokens(tokenizer, names)
  text = Text(tokenizer, special, stream.template, text_format, shape.max_positions)
  backbone, train = make_backbone(shape), config.train
  tools = make_tools(backbone, text, stream, mesh, train.seed, config.evaluate.batch_size)
  method = methods.make(backbone, config.method)
  return Experiment(
    config,
    stream,
    text,
    backbone,
    shape,
    method,
    tools,
    None,
    tuple(added),
    longest_answer=2,
    rate_origin=rate_origin,
  )


def _first_task(parts: Experiment, params: Params) -> tuple[Task, TaskPlan, Params, Tree]:
  """Returns the first task that trains, its plan, and its params and teacher as shapes."""
  found: Json = {}
  tools = shape_only(parts.tools)

  def go(params):
    memory = parts.method.init(params, parts.stream, tools)
    for task in parts.stream.tasks:
      memory, params = parts.method.before_task(memory, params, task, tools.at(task.index))
      found.update(task=task, plan=parts.method.plan(memory, task))
      if found['plan'].new:
        break
    return params, memory['teacher']

  try:
    params, teacher = jax.eval_shape(go, params)
  except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
    name = methods.name_of(parts.config.method)
    raise UserError(
      f'{name} computes with the parameters before its first task, and a plan has only their shapes'
    ) from None
  return found['task'], found['plan'], params, teacher


def _given_shape(parts: Experiment, tokens: int, targets: int) -> batches.Shape:
  """Returns the shape of a batch whose rows have `tokens` tokens, in the buckets of a run."""
  most = parts.decoder_config.max_positions
  if tokens > most:
    raise UserError(f'--tokens={tokens} is more than the model reads: {count_of(most, "position")}')
  if targets > tokens:
    raise UserError(f'--targets={targets} is more than a row has: {count_of(tokens, "token")}')
  train, example = parts.config.train, parts.stream.tasks[0].train[0]
  blocks = parts.tools.mesh.size * train.microbatches
  a_block = -(-len(parts.text.rows(example)) * train.batch_size // blocks)
  length = batches.bucket(tokens, batches.LENGTHS)
  return batches.Shape(
    a_block * blocks, length, batches.bucket(a_block * (targets or length), batches.TARGETS)
  )


def assumed(now: Outline, left_out: bool = False) -> Section:
  """Section: the model, devices and batch that the other sections are about.

  Args:
    now: the first step.
    left_out: sections that need the text are left out, and a note says so.
  """
  parts, train, shape = now.parts, now.parts.config.train, now.shape
  devices, config = parts.tools.mesh.size, parts.decoder_config
  blocks = devices * train.microbatches
  values = {
    'method': methods.name_of(parts.config.method),
    'parameters': _elements(now.params),
    'parameters_trained': _elements(now.inputs.state['params']),
    'layers': config.layers,
    'vocabulary': config.vocabulary,
    'embedding_rows': config.rows,
    'dtype': config.dtype,
    'devices': devices,
    'fsdp': train.fsdp,
    'microbatches': train.microbatches,
    'rows': shape.rows,
    'lines': shape.lines or shape.rows,
    'tokens_per_row': shape.tokens,
    'targets': shape.targets * blocks,
    'batch_from': now.source,
    'learning_rate': train.learning_rate,
    'order_seed': parts.config.stream.order_seed,
  }
  whole, trained = (_elements(t) for t in (now.params, now.inputs.state['params']))
  how = 'FSDP, parameters sharded' if train.fsdp else 'data parallel, parameters on every device'
  rows = [
    ['model', f'{whole / 1e6:,.2f} million parameters, {trained / 1e6:,.2f} of them train; '
     f'{count_of(config.layers, "layer")}, {config.rows:,} rows of the embedding, computes in '
     f'{config.dtype}'],
    ['devices', f'{devices}, {how}'],
    ['batch', f'{shape.words}, {count_of(shape.targets * blocks, "target")}, '
     f'in {count_of(blocks, "block")} (devices × microbatches)'],
    ['from', now.source],
    ['rate', checks.learning_rates(parts)],
  ]  # fmt: skip
  if now.padding is not None:
    values['packed'] = bool(shape.lines)
    values['padding'], values['padding_unpacked'] = now.padding
    rows.insert(3, ['padding', _padding(bool(shape.lines), *now.padding)])
  if not left_out:
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
  whole_params = (now.inputs.state['params'], now.inputs.fixed[0])
  held = resident(now.parts, whole_params, now.inputs)
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
    'start of the task: what trains, and the teacher, as the loop keeps them until it is done',
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
  devices = now.parts.tools.mesh.size
  train_step = now.parts.train_step()
  step = flops.count(train_step, *now.arguments)
  # On the loss alone no gradient depends: what is left of the step is its forward pass.
  forward = flops.count(lambda *args: train_step(*args)[1]['loss'], *now.arguments).mapped
  # Outside the mapped part all is elementwise: a device computes what it holds of the leaves.
  held = device_bytes(now.inputs.state['params']) / _elements(now.inputs.state['params'], size=True)
  device = {
    'forward': forward,
    'backward': step.mapped - forward,
    'optimizer': step.whole * held,
    'total': step.mapped + step.whole * held,
  }
  every = {name: value * devices for name, value in device.items()}
  shape = now.shape
  simple = 6 * _elements(now.params) * shape.places
  names = {'optimizer': 'optimiser and penalties'}
  rows = [['', 'all devices', '', 'each device', '']]
  for name in device:
    both = [c for v in (every[name], device[name]) for c in (f'{v:,.0f}', short(v, 'FLOP'))]
    rows.append([names.get(name, name), *both])
  notes = [
    "XLA's cost of every operation times the turns of the loops that it stands in, padding too",
    f'6 · parameters · tokens = {short(simple, "FLOP")}, of which the total is '
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
