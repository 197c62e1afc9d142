"""Every setting as a typed dataclass: default, unit, one line of meaning.

`get_config(method)` in a file of `configs/` returns a `Config`; launchers override fields by flags
(`--config.train.learning_rate=3e-4`). Defaults < config file < flags. A method's own settings are a
dataclass in the method's file and stand in `Config.method`.
"""

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jcl import notation
from jcl.errors import UserError


class Given:
  """The condition that a setting is given: a number above 0, a text, true."""

  def __eq__(self, value: object) -> bool:
    return bool(value)

  def __hash__(self) -> int:
    return 0

  def __repr__(self) -> str:
    return 'given (not 0, empty or false)'


GIVEN = Given()


def only_with(field: Any, *ways: Mapping[str, Any]) -> Any:
  """Returns a field of a settings class that is read only in one of some ways.

      density: float = only_with(number(0.2, above=0), {'merge': ('ties', 'dare')})

  Args:
    field: what `number`, `choice` or `dataclasses.field` gives, or a default.
    *ways: each names settings and the value, or the tuple of values, that each of them must have.
      A name with a dot, such as `backbone.head`, is looked up in the whole `Config`, any other in
      the settings that the field belongs to. `GIVEN` is any value but 0, '' and false.
  """
  if not isinstance(field, dataclasses.Field):
    field = dataclasses.field(default=field)
  return dataclasses.field(default=field.default, metadata={**field.metadata, 'read_with': ways})


def check_read(settings: Any, path: str = '', whole: Any = None) -> None:
  """Refuses values that nothing reads.

  Args:
    settings: a settings dataclass; a `Config` is checked with its sections, but for the method's
      own settings, which `Settings.check` checks.
    path: what stands before a field's name in a message, such as `train.`.
    whole: the `Config`; None: conditions on other settings than `settings` are not looked at.

  Raises:
    UserError: a field is not at its default and no way in which it is read holds; names the field
      and what would make it read.
  """
  for field in dataclasses.fields(settings):
    ways = field.metadata.get('read_with')
    value = getattr(settings, field.name)
    if dataclasses.is_dataclass(value) and field.name != 'method':
      check_read(value, f'{path}{field.name}.', settings)
    if not ways or value == field.default:
      continue
    if not any(_holds(way, settings, whole) for way in ways):
      words = ', or with '.join(map(_words, ways))
      raise UserError(
        f'{path}{field.name} is {value!r}, but nothing reads it here; it is read with {words}'
      )


def _holds(way: Mapping[str, Any], settings: Any, whole: Any) -> bool:
  """Whether all settings of a way have their values."""
  for name, wanted in way.items():
    if '.' in name and whole is None:
      continue
    value = operator.attrgetter(name)(whole if '.' in name else settings)
    if not any(one == value for one in _values(wanted)):
      return False
  return True


def _words(way: Mapping[str, Any]) -> str:
  """Returns a way in words: `merge 'ties' or 'dare' and stack False`."""
  return ' and '.join(f'{n} {" or ".join(map(repr, _values(wanted)))}' for n, wanted in way.items())


def _values(wanted: Any) -> tuple[Any, ...]:
  """Returns the values that a setting may have in a way."""
  return wanted if isinstance(wanted, tuple) else (wanted,)


def choice(default: str, *others: str) -> Any:
  """Returns a field that is one of a few words; `check_values` refuses all others."""
  return dataclasses.field(default=default, metadata={'choices': (default, *others)})


def number(
  default: float | None, *, least: float | None = None, above: float | None = None,
  most: float | None = None, below: float | None = None,
) -> Any:  # fmt: skip
  """Returns a field that is a number within bounds; `check_values` refuses all others.

  Args:
    default: an int or a float, as the field's type says; None where it may be that.
    least: smallest value.
    above: largest value that is too small.
    most: largest value.
    below: smallest value that is too large.
  """
  bounds = {'at least': least, 'above': above, 'at most': most, 'below': below}
  given = {words: bound for words, bound in bounds.items() if bound is not None}
  return dataclasses.field(default=default, metadata={'bounds': given})


def check_values(settings: Any, path: str = '') -> None:
  """Refuses values of the wrong type, outside their bounds or not among their choices.

  Args:
    settings: a settings dataclass; the dataclasses in its fields are checked too.
    path: what stands before a field's name in a message, such as `train.`.

  Raises:
    UserError: the first such value; names the field and what would be right.
  """
  types = typing.get_type_hints(type(settings))  # annotations may be strings
  for field in dataclasses.fields(settings):
    value, name = getattr(settings, field.name), f'{path}{field.name}'
    if dataclasses.is_dataclass(value):
      check_values(value, f'{name}.')
      continue
    choices = field.metadata.get('choices')
    right = _misfit(value, types[field.name])
    if not right and choices and value not in choices:
      right = f'one of {", ".join(map(repr, choices))}'
    if not right:
      right = _out_of_bounds(value, field.metadata.get('bounds', {}))
    if right:
      raise UserError(f'{name} is {_short(value)}; it must be {right}')


def set_sequences(settings: Any, path: str = '') -> None:
  """Replaces what stands for a list in a settings dataclass by the list, in all its groups.

  A field of type `tuple[X, ...]` or `list[X]` may be given as `'a,b'`, as one entry, or as a list.

  Args:
    settings: the dataclass; it is changed.
    path: what stands before a field's name in a message, such as `train.`.

  Raises:
    UserError: a text is no list of the field's kind; names the field and what would be right.
  """
  types_of_fields = typing.get_type_hints(type(settings))
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if dataclasses.is_dataclass(value):
      set_sequences(value, f'{path}{field.name}.')
    elif entry := entry_type(types_of_fields[field.name]):
      try:
        made = notation.convert(value, entry)
      except ValueError as error:
        raise UserError(f'{path}{field.name} is {_short(value)}: {error}') from None
      if typing.get_origin(types_of_fields[field.name]) is list and isinstance(made, tuple):
        made = list(made)
      if made != value:
        setattr(settings, field.name, made)


def entry_type(kind: Any) -> type | None:
  """Returns X for a field of type `tuple[X, ...]`, `list[X]` or `Sequence[X]`, else None.

  X is `str`, `int` or `float`.
  """
  entries = [x for x in typing.get_args(kind) if x is not Ellipsis]
  if typing.get_origin(kind) not in (tuple, list, Sequence) or len(set(entries)) != 1:
    return None
  return entries[0] if entries[0] in notation.KINDS else None


HOLDS: dict[str, Callable[[float, float], bool]] = {
  'at least': operator.ge,
  'above': operator.gt,
  'at most': operator.le,
  'below': operator.lt,
}


def _out_of_bounds(value: Any, bounds: Mapping[str, float]) -> str:
  """Returns the bounds that a number breaks, in words; empty where it is within them."""
  if value is None or all(HOLDS[words](value, bound) for words, bound in bounds.items()):
    return ''
  return ' and '.join(f'{words} {bound}' for words, bound in bounds.items())


def _misfit(value: Any, kind: Any) -> str:
  """Returns the type that a value should have, in words; empty where it has it."""
  if typing.get_origin(kind) in (types.UnionType, typing.Union):
    wrong = [_misfit(value, k) for k in typing.get_args(kind)]
    return '' if '' in wrong else ' or '.join(wrong)
  if kind is types.NoneType and value is not None:
    return 'None'
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if kind is bool and not isinstance(value, bool):
    return 'true or false'
  if kind is int and not (number and isinstance(value, int) and abs(value) < 2**31):
    return 'a whole number below 2147483648'
  if kind is float and not (number and _fits_float32(value)):
    return 'a number in the range of float32'
  if kind is str and not _is_text(value):
    return 'text'
  if (entry := entry_type(kind)) and not (
    isinstance(value, tuple | list) and not any(_misfit(x, entry) for x in value)
  ):
    return f'a {typing.get_origin(kind).__name__.lower()} of {notation.KINDS[entry]}s'
  if dataclasses.is_dataclass(kind):
    return 'a group of settings'
  return ''


def _fits_float32(value: float) -> bool:
  """Whether a number becomes neither infinite nor, unless it is 0, zero on the device."""
  try:
    with np.errstate(over='ignore', under='ignore'):
      rounded = np.float32(float(value))
  except OverflowError:
    return False
  return bool(np.isfinite(rounded) and (rounded != 0 or value == 0))


def _is_text(value: object) -> bool:
  """Whether a value is text that a file can hold: no NUL and no half of a surrogate pair."""
  return isinstance(value, str) and not any(x == '\0' or '\ud800' <= x <= '\udfff' for x in value)


def _short(value: object) -> str:
  """A value as a message shows it."""
  try:
    shown = repr(value)
  except ValueError:  # an integer of more digits than Python writes
    return 'a huge number'
  return shown if len(shown) <= 60 else f'{shown[:60]}…'


@dataclasses.dataclass
class StreamConfig:
  """Settings of the stream of tasks that is learned."""

  # synthetic | files | a benchmark of streams/benchmarks.py | package.module:reader | entry point
  name: str = 'synthetic'
  path: str = ''  # folder or manifest that holds the data; empty for synthetic
  classes_per_task: int = number(10, least=1)  # classes a task; benchmarks only
  max_tasks: int = number(0, least=0)  # tasks; 0: all
  # Examples a task, taken from each class in turn, in file order; 0: all.
  max_train_per_task: int = number(0, least=0)
  max_test_per_task: int = number(0, least=0)
  # Order of classes (for own files: of tasks); -1: as in the files.
  order_seed: int = number(-1, least=-1)
  # Training texts that occur in test; '': the stream's own way.
  overlap: str = choice('', 'refuse', 'drop', 'keep')
  # Share of each class of train that becomes test in tasks without a test split; 0: refuse those.
  test_fraction: float = number(0.0, least=0, below=1)
  test_seed: int = number(0, least=0)  # of the choice of these rows
  # Share of train that becomes dev, if dev scores are asked for and the stream has no dev split.
  dev_fraction: float = number(0.1, above=0, below=1)
  template: str = ''  # plain rows, with {x} and {y}; empty: the stream's own
  # A name of chat_templates.NAMED, a .jinja file, or `model`: the model's own. Empty: the model's
  # own for conversations, none for other rows.
  chat_template: str = ''
  # Day that a chat template writes, YYYY-MM-DD; empty: the day on which the run began.
  chat_date: str = ''
  loss_turns: str = choice('all', 'last')  # turns of the assistant that the loss counts
  # Tokens a row, cpt: a block. The input of a longer row is cut, never its answer.
  max_length: int = number(512, least=8)
  # A row whose text holds a special token of the tokenizer: refused, read as text, or left out.
  special_tokens_in_text: str = choice('refuse', 'text', 'drop')
  cache: str = ''  # folder of tokenised corpora, cpt; empty: ~/.cache/jcl/corpora


@dataclasses.dataclass
class BackboneConfig:
  """Settings of the model that learns: one from a file, or a small decoder from scratch."""

  path: str = ''  # folder, GGUF file or hub name; empty: a small decoder from scratch
  # package.module:name of a Family; empty: found by the model_type of `path`
  family: str = only_with('', {'path': GIVEN})
  width: int = number(64, least=1)  # hidden size; from scratch
  layers: int = number(2, least=1)  # from scratch
  heads: int = number(4, least=1)  # attention heads; from scratch
  feed_forward: int = number(192, least=1)  # hidden size of the MLP; from scratch
  dropout: float = number(0.0, least=0, below=1)  # probability, in training only
  tokenizer: str = choice('word', 'bpe')  # made of the training texts; from scratch
  tokenizer_path: str = ''  # take the tokenizer of this model (as `path`); from scratch
  # tokens at most, with `bpe`; from scratch
  vocabulary: int = only_with(number(2048, least=1), {'tokenizer': 'bpe'})
  # The embedding has a multiple of so many rows; padding rows are never predicted.
  vocabulary_multiple: int = number(1, least=1)
  dtype: str = choice('float32', 'bfloat16')  # of the computation; parameters are float32
  attention: str = choice('xla', 'cudnn')  # implementation
  remat: bool = False  # recompute each layer in the backward pass
  head: str = choice('', 'linear', 'cosine')  # classifies instead of writing answers; '': none
  # state that a head reads; '': the model's own
  pooling: str = only_with(choice('', 'last', 'first', 'mean'), {'backbone.head': GIVEN})
  added_token_init: str = choice('copy', 'mean')  # embedding rows of __ans__ and generation tokens


@dataclasses.dataclass
class TrainConfig:
  """How each task is trained."""

  # Of the model; None: by what trains, see `jcl.step.rates`.
  learning_rate: float | None = number(None, least=0)
  # of a head, in place of `learning_rate`
  head_learning_rate: float = only_with(number(1e-3, least=0), {'backbone.head': GIVEN})
  adapter_learning_rate: float = number(2e-4, least=0)  # of adapters, in place of `learning_rate`
  weight_decay: float = number(5e-4, least=0)  # none on norms and biases
  l1: float = number(0.0, least=0)  # weight of Σ|θ| over what trains, without norms and biases
  l2: float = number(0.0, least=0)  # weight of Σθ²; unlike weight_decay it goes through Adam
  epochs: int = number(5, least=1)  # a task; ignored if `steps` is given
  steps: int = number(0, least=0)  # a task; 0: `epochs` decides
  batch_size: int = number(32, least=1)  # examples on all devices together
  # Gradient accumulation: a batch is computed in so many parts, one after another.
  microbatches: int = number(1, least=1)
  seed: int = number(0, least=0)  # of every draw but the order of the stream
  trainable: tuple[str, ...] = ('.*',)  # name patterns, `!` in front freezes, first match wins
  schedule: str = choice('constant', 'cosine', 'linear', 'wsd')  # wsd: warm-up, stable, decay
  # one a task | one over the run
  schedule_between_tasks: str = only_with(
    choice('rewarm', 'continue'),
    {'schedule': ('cosine', 'linear', 'wsd')},
    {'warmup_fraction': GIVEN},
  )
  warmup_fraction: float = number(0.0, least=0, most=1)  # of the schedule's steps
  # Last share of the schedule's steps, in which the rate falls to 0; `wsd` only.
  decay_fraction: float = only_with(number(0.2, least=0, most=1), {'schedule': 'wsd'})
  clip_norm: float = number(1.0, least=0)  # norm of the whole gradient; 0: off
  beta2: float = number(0.999, least=0, below=1)  # AdamW's
  optimizer_between_tasks: str = choice('fresh', 'carried')  # state at the start of a task
  added_token_rate: float = number(1.0, least=0)  # multiplies the updates of added tokens' rows
  keep_best: bool = False  # a task ends with the parameters of its best dev score
  # Steps of a task that are not finite and so not applied; one more ends the run.
  max_bad_steps: int = number(10, least=0)
  log_every: int = number(10, least=1)  # steps between lines of metrics.jsonl
  fsdp: bool = False  # shard parameters and optimiser state over the devices


@dataclasses.dataclass
class AdversarialConfig:
  """Adversarial training: the input embeddings are moved to where the loss is higher."""

  epsilon: float = number(0.0, least=0)  # length of a row's move; 0: off
  # Weight of the objective at the moved embeddings.
  weight: float = only_with(number(1.0, least=0), {'epsilon': GIVEN})


@dataclasses.dataclass
class EvaluateConfig:
  """How the model is evaluated."""

  answer: str = choice('generate', 'score')  # greedy text | the likeliest allowed label
  # Rows a chunk of generation or scoring, on all devices together.
  batch_size: int = number(64, least=1)
  every_steps: int = number(0, least=0)  # steps between dev scores of all seen tasks; 0: off
  every_epochs: int = number(0, least=0)  # epochs between them; 0: off


@dataclasses.dataclass
class CheckpointConfig:
  """How much a kill may cost."""

  every_steps: int = number(0, least=0)  # training steps at most; 0: no snapshots by steps
  # Chunks of sampling, evaluation or Fisher at most; 0: no snapshots by chunks.
  every_chunks: int = number(0, least=0)
  # Minutes between snapshots, at the next step or chunk; runs of one process only; 0: off.
  every_minutes: float = number(15.0, least=0)
  keep_tasks: bool = False  # keep the snapshot of every finished task under tasks/


@dataclasses.dataclass
class Config:
  """A run."""

  method: Any = None  # settings of the method: an object of its `Settings` class
  scenario: str = choice('cil', 'til', 'iil', 'dil', 'cpt')
  stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
  backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  adversarial: AdversarialConfig = dataclasses.field(default_factory=AdversarialConfig)
  evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
  checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
