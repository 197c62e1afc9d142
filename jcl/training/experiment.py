"""From settings to the parts of a run: stream, text, backbone, method, tools."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import optax
from jax.sharding import Mesh
from jax.stages import Wrapped

from jcl import methods, streams
from jcl.backbones import Backbone
from jcl.backbones.files.companions import Companions
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.models import for_method, make_backbone
from jcl.batching import chat_choice
from jcl.batching.batch import Row, membership
from jcl.batching.packed_text import packed_stream
from jcl.batching.text_formats import Text
from jcl.config import Config, TrainConfig, Unread, check_read, check_values, refused, set_sequences
from jcl.errors import UserError
from jcl.methods import Method
from jcl.step import losses, optimizer, rates, sharding, train_step, trainable
from jcl.step.adversarial import adversarial
from jcl.step.numerics import computing
from jcl.storage import paths
from jcl.streams.many_objects import uncollected
from jcl.streams.stream import Stream, TaskPlan
from jcl.training.first_weights import FirstWeights
from jcl.training.general_text import corpus_rows, read_corpus
from jcl.training.hook_tools import HookTools, make_tools
from jcl.training.inputs import Inputs, probe_rows, stream_rows, template_digest
from jcl.training.model_shape import shape_fields
from jcl.training.probe import read_probe
from jcl.training.start_model import StartModel, outside_teacher, start_model
from jcl.training.task_metrics import with_metrics
from jcl.types import Params, Tree

if TYPE_CHECKING:
  from jcl.backbones.files.hf import Loaded


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a run is made of.

  Attributes:
    config: the settings.
    stream: the tasks.
    text: how examples become rows.
    backbone: the model.
    decoder_config: shape of the model, a decoder or an encoder.
    method: how forgetting is held off.
    tools: what the method's hooks may ask for.
    weights: pretrained parameters on the host or in their files; None: from scratch, or not read.
    added: ids of the tokens that were added to the tokenizer.
    longest_answer: tokens that an answer may have, end-of-sequence included.
    inputs: digests of stream, tokenizer and weights, with which a resumed run is compared; None:
      they are not stored.
    rate_origin: where `train.learning_rate` comes from, in words.
    companions: files that go with the pretrained model, such as chat templates.
    notes: a line for each contradiction in its files that was resolved, and for what is unused.
    probe: rows of `evaluate.probe`.
    first: the weights as far as they are on the devices already.
  """

  config: Config
  stream: Stream
  text: Text
  backbone: Backbone
  decoder_config: ModelConfig
  method: Method
  tools: HookTools
  weights: Params | None
  added: tuple[int, ...]
  longest_answer: int
  inputs: Inputs | None = None
  rate_origin: str = 'as set'
  companions: Companions = dataclasses.field(default_factory=Companions)
  notes: tuple[str, ...] = ()
  probe: tuple[Row, ...] = ()
  first: FirstWeights | None = None

  @property
  def score(self) -> Literal['accuracy', 'log_perplexity']:
    """Kind of score in the matrix: `accuracy`, or `log_perplexity` for raw text."""
    return 'log_perplexity' if self.text.text_format == 'packed' else 'accuracy'

  @property
  def task_id_given(self) -> bool:
    """Whether the model is given the task at test time."""
    return self.tools.task_id_given

  @property
  def summed_tasks(self) -> int:
    """Number of tasks whose means a term sums: all with a head and the task given, else 0."""
    return len(self.stream) if self.tools.heads is not None and self.task_id_given else 0

  def initial_params(self) -> Params:
    """Returns the parameters that the run starts from, float32, sharded from the start."""
    mesh, fsdp = self.tools.mesh, self.config.train.fsdp
    if self.weights is not None:
      weights = self.weights if self.first is None else self.first.taken()
      return sharding.place(weights, mesh, sharding.specs(weights, mesh, fsdp))
    return sharding.born(self.backbone.init, mesh, fsdp)(self.tools.key('init'))

  @property
  def loss_fn(self) -> Callable:
    """The method's loss, or that of plain fine-tuning."""
    return self.method.loss_fn or losses.plain(self.backbone)

  def optimizer(self) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser; the step multiplies its updates by the learning rate."""
    return optimizer.make_optimizer(self.config.train, self.added, ('embed', 'unembed'))

  def train_step(self) -> Wrapped:
    """Returns the pmapped train step; see `train_step.make_step`."""
    of_method = self.method, self.loss_fn
    return train_step.make_step(*of_method, self.optimizer(), self.tools.mesh, **self.how)

  @property
  def how(self) -> dict[str, Any]:
    """How a gradient is computed: the settings of `train_step.make_gradient`."""
    train = self.config.train
    norms = {'norms': losses.norms} if train.l1 or train.l2 else {}
    return dict(fsdp=train.fsdp, tasks=self.summed_tasks, microbatches=train.microbatches, **norms)

  def split(self, params: Params, plan: TaskPlan) -> tuple[Tree, Tree, Tree]:
    """Splits parameters into trained, frozen and masks by a task's plan; see `trainable.split`.

    Raises:
      UserError: nothing would train.
    """
    patterns = self.config.train.trainable
    parts = trainable.split(params, optimizer.rules_of(patterns, plan.trainable))
    if not jax.tree.leaves(parts[0]):
      raise UserError(f'train.trainable {patterns} names no parameter')
    return parts


def check(config: Config, old: bool = False) -> None:
  """Refuses settings that are wrong whatever the data; lists given as text become lists.

  Args:
    config: the settings; lists are changed in place.
    old: the run has begun; settings that nothing reads are then not refused.

  Raises:
    UserError: a setting is wrong; names the field.
  """
  set_sequences(config)
  check_values(config)
  paths.check_fields(config)
  config.method.check()
  optimizer.check(config.train)
  name = methods.name_of(config.method)
  if config.scenario not in config.method.scenarios:
    known = ', '.join(config.method.scenarios)
    raise UserError(f'scenario is {config.scenario!r}, in which {name} has no meaning; use {known}')
  if 'head' in config.method.needs and not config.backbone.head:
    right = 'linear' if 'linear_head' in config.method.needs else 'linear or cosine'
    raise UserError(f"backbone.head is '', but {name} needs a head over classes; give {right}")
  if 'linear_head' in config.method.needs and config.backbone.head != 'linear':
    given = config.backbone.head
    raise UserError(f'backbone.head is {given!r}, but {name} writes a linear head; give linear')
  if config.train.packing == 'on' and config.backbone.attention == 'cudnn':
    raise UserError(
      "train.packing is 'on', but backbone.attention 'cudnn' cannot keep the rows of a line apart; "
      "use 'xla', or packing 'auto'"
    )
  if config.backbone.path and config.backbone.tokenizer_path:
    raise UserError(
      f'backbone.tokenizer_path is {config.backbone.tokenizer_path!r}, but backbone.path has a '
      'tokenizer of its own; leave one of them empty'
    )
  if config.scenario == 'cpt':
    wrong = {'backbone.head': config.backbone.head, 'stream.template': config.stream.template}
    for field, value in wrong.items():
      if value:
        raise UserError(
          f"{field} is {value!r}; in scenario 'cpt' it must be '': text has no answers"
        )
    if config.evaluate.answer == 'score':
      raise UserError("evaluate.answer is 'score'; in scenario 'cpt' it must be 'generate'")
  elif config.backbone.head and config.method.text_format != 'plain':
    raise UserError(f'backbone.head is {config.backbone.head!r}, but {name} writes its answers')
  kept = {'optimizer_between_tasks': 'fresh', 'schedule_between_tasks': 'rewarm'}
  for field, right in kept.items():
    value = getattr(config.train, field)
    if value != right and config.method.starts_afresh:
      raise UserError(
        f'train.{field} is {value!r}, but {name} starts from a fresh model; use {right!r}'
      )
  if name == 'joint' and config.train.steps:
    raise UserError('train.steps counts one task and joint trains on all; use train.epochs with it')
  if not old:
    check_read(config, whole=config)


def check_stream(config: Config, stream: Stream) -> None:
  """Refuses settings that need classes if the stream has free answers, and a head out of place.

  Raises:
    UserError: a setting does not fit the stream; names the field.
  """
  known = config.method.head_scenarios
  if config.backbone.head and (not stream.classes or config.scenario not in known):
    raise UserError(
      f'backbone.head is {config.backbone.head!r}, which needs classes and a scenario out of '
      f'{", ".join(known)} with this method'
    )
  if stream.classes:
    return
  if config.evaluate.answer == 'score':
    raise UserError("evaluate.answer is 'score', but the answers are free; use 'generate'")
  parts = methods.parts(config.method).values()
  if any(getattr(part, 'require_known_label', False) for part in parts):
    raise UserError('method.require_known_label is set, but the answers are free and no labels')


@computing
@uncollected()
def assemble(
  config: Config, mesh: Mesh | None = None, weights: bool = True, stream: Stream | None = None,
  loaded: 'Loaded | None' = None, old: bool = False,
) -> Experiment:  # fmt: skip
  """Reads the stream and the model and assembles the run.

  Args:
    config: the settings.
    mesh: of devices; None: one of all devices.
    weights: read the pretrained parameters too; without them the shapes are right and no run can
      start.
    stream: the stream, if it has been read or made already; None: `config.stream` is read.
    loaded: a pretrained model (`hf.Loaded`) in place of the one at `config.backbone.path`.
    old: as in `check`.

  Raises:
    UserError: settings or files cannot be used.
  """
  check(config, old)
  asked = config
  config, rate_origin = rates.with_rate(config, pretrained=bool(config.backbone.path or loaded))
  often = max(config.evaluate.every_steps, config.evaluate.every_epochs)
  need_dev = config.train.keep_best or often > 0
  raw_text = config.scenario == 'cpt'
  made_of = streams.load if stream is None else functools.partial(streams.rebuild, stream)
  stream = made_of(config.stream, need_dev=need_dev, targets=not raw_text)
  check_stream(config, stream)
  documents = stream = with_metrics(config, stream)
  base = start_model(config, stream, loaded, weights)
  config = dataclasses.replace(
    config, stream=dataclasses.replace(config.stream, chat_date=base.chat.date)
  )
  shape = for_method(base.shape, config.method.lora_dropout, config.method.block_every)
  text, stream = _text(config, base, stream, shape)
  backbone = make_backbone(shape, sharding.split_of(config.train.tensor))
  tools = make_tools(
    backbone, text, stream, sharding.given_mesh(mesh, config.train.tensor),
    config.train.seed, config.evaluate.batch_size, corpus=read_corpus(config, text),
    added=base.added, membership=membership([task.classes for task in stream.tasks], shape.classes),
    train=config.train, states={} if config.method.keeps_backbone else None,
    task_id_given=config.scenario == 'til' or 'task_id' in config.method.needs,
  )  # fmt: skip
  longest = 0 if raw_text else text.prepare(stream.examples)
  config.method.check_run(config.scenario, tools)
  teacher, teacher_digest, teacher_shape = outside_teacher(config, text, weights)
  method = with_knobs(methods.make(backbone, config.method, teacher), config, backbone)
  useless = [*stream.unread, *base.unread, *between_tasks(config, stream)]
  useless += unread_in_training(asked, config, backbone)
  notes = () if old else tuple(refused(useless, asked.from_file))
  first = FirstWeights(base.params, tools.mesh, config.train.fsdp, begins=not old)
  shapes = {'weights': shape_fields(base.shape)} if config.backbone.path or loaded else {}
  shapes |= {'teacher': teacher_shape} if teacher else {}
  probe = read_probe(config, text, documents)
  rows = (*stream_rows(stream, documents), *probe_rows(probe), *corpus_rows(tools.corpus, text))
  read = Inputs(stream.template, rows, base.tokenizer_digest, first.digest(base.files),
                teacher_digest, template_digest(base.chat.source), shapes)  # fmt: skip
  return Experiment(
    config, stream, text, backbone, shape, method, tools, base.params, base.added, longest, read,
    rate_origin, base.companions, (*base.notes, *notes), probe, first,
  )  # fmt: skip


def _text(
  config: Config, base: StartModel, stream: Stream, shape: ModelConfig
) -> tuple[Text, Stream]:
  """Returns what makes rows of examples for a model, and the stream that it can read."""
  limit = min(config.stream.max_length, shape.max_positions)
  given = base.tokenizer, base.special
  if config.scenario == 'cpt':
    probe = getattr(config.method, 'probe_path', '')
    return packed_stream(config.stream, stream, *given, limit, probe)
  return chat_choice.make_text(
    base.chat, config.stream, *given, stream, config.text_format, limit, shape.pooling
  )


def between_tasks(config: Config, stream: Stream) -> list[Unread]:
  """Returns the given settings that act between tasks, if the run has only one task."""
  names = ('optimizer_between_tasks', 'schedule_between_tasks') if len(stream) == 1 else ()
  given = {name: getattr(config.train, name) for name in names}
  why = 'the run has one task'
  return [Unread(f'train.{k}', v, why) for k, v in given.items() if v != getattr(TrainConfig, k)]


READ_WITHOUT_STEPS = {
  'train': ('seed', 'packing', 'fsdp', 'tensor'), 'adversarial': (),
  'evaluate': ('answer', 'batch_size'),
}  # fmt: skip


def unread_in_training(asked: Config, config: Config, backbone: Backbone) -> list[Unread]:
  """Returns the given settings of training that nothing reads.

  Args:
    asked: the settings as the user gave them.
    config: the settings of the run.
    backbone: the model.
  """
  if config.method.takes_steps:
    return [*optimizer.without_effect(asked.train, trained_params(config, backbone))]
  plain, why = Config(), f'{methods.name_of(config.method)} takes no training step'
  found = []
  for group, read in READ_WITHOUT_STEPS.items():
    for name, value in dataclasses.asdict(getattr(asked, group)).items():
      if name not in read and value != getattr(getattr(plain, group), name):
        found.append(Unread(f'{group}.{name}', value, why))
  return found


def trained_params(config: Config, backbone: Backbone) -> Tree:
  """Returns the parameters that may train, None in place of the others; adapters are left out.

  Raises:
    UserError: no parameter has a name that `train.trainable` names.
  """
  patterns = config.train.trainable
  whole = jax.eval_shape(backbone.init, jax.random.key(0))
  if 'tree' in config.method.brings:
    return whole  # each task of such a method decides which parameters there are
  found = trainable.split(whole, optimizer.trainable_rules(patterns))[0]
  if not jax.tree.leaves(found):
    raise UserError(f'train.trainable {patterns} names no parameter; there are {", ".join(whole)}')
  return found


def with_knobs(method: Method, config: Config, backbone: Backbone) -> Method:
  """Returns a method with the knobs of all methods: `train.l1`, `l2`, `dft` and `adversarial`.

  Raises:
    UserError: `train.keep_best` for a method whose evaluated parameters are not those that train.
  """
  follows = method.params_for is not Method._field_defaults['params_for']
  if config.train.keep_best and method.after_step is not None and follows:
    raise UserError(
      f'train.keep_best is true, but {methods.name_of(config.method)} evaluates parameters that '
      'follow those in training; set it to false'
    )
  if config.train.l1 or config.train.l2:
    weights = {'l1_norm': config.train.l1, 'l2_norm': config.train.l2}
    plan = method.plan
    weighted = lambda p: p._replace(weights={**p.weights, **weights})
    method = method._replace(plan=lambda memory, task: weighted(plan(memory, task)))
  if config.train.dft:
    loss_fn = losses.by_probability(method.loss_fn or losses.plain(backbone))
    method = method._replace(loss_fn=loss_fn)
  if config.adversarial.epsilon:
    worse = config.adversarial.epsilon, config.adversarial.weight
    method = method._replace(objective=adversarial(method.objective, backbone.width, *worse))
  return method
