"""The first computation of a run, as shapes: a training step, or the first rows that a hook reads.

Nothing is trained and no parameter is allocated.
"""

import copy
import dataclasses
import functools
from typing import cast

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from jcl import methods
from jcl.backbones.decoder_config import from_scratch, with_settings
from jcl.backbones.models import make_backbone
from jcl.backbones.new_tokens import with_new_tokens
from jcl.backbones.tokenizers import add_tokens, word_tokenizer
from jcl.batching import batch as batches
from jcl.batching.text_formats import Text, added_tokens
from jcl.config import BackboneConfig, Config
from jcl.errors import UserError, count_of
from jcl.preflight.footprint import at_rest, outlined_inputs, resident, shape_only
from jcl.step import rates, sharding
from jcl.streams.stream import Example, Stream, Task, TaskPlan
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader, check_epochs
from jcl.training.experiment import Experiment
from jcl.training.hook_tools import make_tools
from jcl.training.step_inputs import StepInputs
from jcl.types import Json, Params, Tree


@dataclasses.dataclass(frozen=True)
class Outline:
  """A run's first step as shapes with shardings; `arguments` are what its program takes.

  For a method that takes no step it outlines the first block of rows whose features a hook needs.

  Attributes:
    parts: of the run, without weights.
    params: all parameters as the run holds them between tasks.
    plan: of the task.
    shape: of the batch.
    source: where that shape comes from.
    inputs: of the train step; None: no step is taken.
    batch: of the program.
    padding: share of the places of the first epoch's steps that are padding, as they are and
      unpacked; None: the text was not read.
  """

  parts: Experiment
  params: Params
  plan: TaskPlan
  shape: batches.Shape
  source: str
  inputs: StepInputs | None
  batch: Tree
  padding: tuple[float, float] | None = None

  @property
  def blocks(self) -> int:
    """Blocks of the batch: devices × microbatches."""
    microbatches = 1 if self.inputs is None else self.parts.config.train.microbatches
    return self.parts.tools.row_blocks * microbatches

  @property
  def trained(self) -> Tree:
    """The parameters that train."""
    return {} if self.inputs is None else self.inputs.state['params']

  @property
  def held(self) -> dict[str, Tree]:
    """The trees that stand on the devices, by what they are."""
    if self.inputs is not None:
      params = self.inputs.state['params'], self.inputs.fixed[0]
      return resident(self.parts, params, self.inputs)
    return at_rest(self.params)

  @property
  def program(self) -> Wrapped:
    """The train step, or the forward pass."""
    if self.inputs is None:
      return cast(Wrapped, self.parts.tools.maps.targets(self.parts.backbone.logits))
    return self.parts.train_step()

  @property
  def arguments(self) -> tuple:
    """The arguments of the program."""
    if self.inputs is None:
      return self.params, self.batch
    scalar = jax.ShapeDtypeStruct((), np.float32)
    state, fixed, weights, groups = self.inputs
    return state, fixed, dict.fromkeys(weights, scalar), scalar, self.batch, groups

  @functools.cached_property
  def compiled(self) -> jax.stages.Compiled:
    """The program, compiled for the devices of the mesh."""
    return self.program.lower(*self.arguments).compile()


def outline(config: Config, mesh: Mesh, tokens: int = 0, targets: int = 0) -> Outline:
  """Outlines the first step of a run; arguments as in `page`."""
  return outline_of(assembled(config, mesh, tokens), tokens, targets)


def assembled(config: Config, mesh: Mesh, tokens: int = 0) -> Experiment:
  """Assembles a run without weights; arguments as in `page`."""
  return _parts(config, mesh, textless=is_textless(config, tokens))


def outline_of(parts: Experiment, tokens: int = 0, targets: int = 0) -> Outline:
  """Outlines the first step of a run that is assembled, on its mesh; the rest as in `page`."""
  mesh = parts.tools.mesh
  whole = jax.eval_shape(parts.backbone.init, jax.random.key(0))
  task, plan, whole, teacher = _first_task(parts, whole)
  padding = None
  if tokens:
    shape, source = _given_shape(parts, tokens, targets), '--tokens'
  else:
    source = f'largest of task {task.name}, {parts.stream.name}'
    if plan.takes_steps:
      if parts.method.before_epoch is not None:
        check_epochs(plan)
      loader = BatchLoader(plan, task.index, parts.tools.at(task.index), parts.config.train)
      shape, padding = loader.largest, loader.padding()
    else:
      sizes = [parts.text.outlines(e)[0] for e in task.train]
      shape = max((shape for shape, _ in parts.tools.blocks(sizes)), key=lambda s: s.places)
  fsdp = parts.config.train.fsdp
  put = lambda tree: sharding.outline(tree, mesh, sharding.specs(tree, mesh, fsdp))
  inputs = outlined_inputs(parts, whole, teacher, plan) if plan.takes_steps else None
  blocks = parts.tools.row_blocks * (parts.config.train.microbatches if plan.takes_steps else 1)
  heads = parts.tools.at(task.index).heads
  empty = batches.layout([], blocks, shape, tables=plan.tables, heads=heads)
  batch = sharding.outline(empty, mesh, sharding.ROWS)
  return Outline(parts, put(whole), plan, shape, source, inputs, batch, padding)


def is_textless(config: Config, tokens: int) -> bool:
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
  train = config.train
  backbone = make_backbone(shape, sharding.split_of(train.tensor))
  how = train.seed, config.evaluate.batch_size
  tools = make_tools(backbone, text, stream, mesh, *how, train=train)
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
  blocks = parts.tools.row_blocks * train.microbatches
  a_block = -(-len(parts.text.rows(example)) * train.batch_size // blocks)
  length = batches.bucket(tokens, batches.LENGTHS)
  return batches.Shape(
    a_block * blocks, length, batches.bucket(a_block * (targets or length), batches.TARGETS)
  )
