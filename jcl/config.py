"""Every setting as a typed dataclass: default, unit, one line of meaning.

`get_config(method)` in a file of `configs/` returns a `Config`; launchers override fields by flags
(`--config.train.learning_rate=3e-4`). Defaults < config file < flags. A method's own settings are a
dataclass in the method's file and stand in `Config.method`.
"""

import dataclasses
from typing import Any

import numpy as np

from jcl.errors import UserError


def choice(default: str, *others: str) -> Any:
  """A field that is one of a few words; `check_values` refuses all others."""
  return dataclasses.field(default=default, metadata={'choices': (default, *others)})


def check_values(settings: Any, path: str = '') -> None:
  """Refuses values that no field of their kind can have, in a settings dataclass and those in it.

  Raises:
    UserError: naming the field and what would be right.
  """
  for field in dataclasses.fields(settings):
    value, name = getattr(settings, field.name), f'{path}{field.name}'
    if dataclasses.is_dataclass(value):
      check_values(value, f'{name}.')
      continue
    choices = field.metadata.get('choices')
    right = _misfit(value, field.type)
    if not right and choices and value not in choices:
      right = f'one of {", ".join(map(repr, choices))}'
    if right:
      raise UserError(f'{name} is {_short(value)}; it must be {right}')


def _misfit(value: Any, kind: Any) -> str:
  """What a value of a field of this type must be; empty where it is so."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if kind is bool and not isinstance(value, bool):
    return 'true or false'
  if kind is int and not (number and isinstance(value, int) and abs(value) < 2**31):
    return 'a whole number below 2147483648'
  if kind is float and not (number and _fits_float32(value)):
    return 'a number in the range of float32'
  if kind is str and not _is_text(value):
    return 'text'
  if kind == tuple[str, ...] and not (
    isinstance(value, tuple | list) and all(map(_is_text, value))
  ):
    return 'a tuple of texts'
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


def _is_text(value: Any) -> bool:
  """Whether a value is text that a file can hold: no NUL and no half of a surrogate pair."""
  return isinstance(value, str) and not any(x == '\0' or '\ud800' <= x <= '\udfff' for x in value)


def _short(value: Any) -> str:
  """A value as a message shows it."""
  try:
    shown = repr(value)
  except ValueError:  # an integer of more digits than Python writes
    return 'a huge number'
  return shown if len(shown) <= 60 else f'{shown[:60]}…'


@dataclasses.dataclass
class StreamConfig:
  """What is learned."""

  name: str = 'synthetic'  # synthetic | files | a reader of streams/benchmarks.py
  path: str = ''  # folder or manifest that holds the data; empty for synthetic
  classes_per_task: int = 10  # classes; benchmarks alone
  max_tasks: int = 0  # tasks; 0: all
  max_train_per_task: int = 0  # examples, taken from each class in turn, in file order; 0: all
  max_test_per_task: int = 0  # examples, taken likewise; 0: all
  order_seed: int = -1  # order of classes (of tasks, for own files); -1: as in the files
  overlap: str = choice('', 'refuse', 'drop', 'keep')  # train texts in test; '': the stream's own
  dev_fraction: float = 0.1  # of train, carved where the stream has no dev split and one is asked
  template: str = ''  # plain rows, with {x} and {y}; empty: the stream's own
  max_length: int = 512  # tokens a row; the input is cut, never the answer; cpt: of a block
  cache: str = ''  # folder of corpora that were tokenised, cpt; empty: ~/.cache/jcl/corpora


@dataclasses.dataclass
class BackboneConfig:
  """What learns."""

  path: str = ''  # folder, GGUF file or hub name; empty: a small decoder from scratch
  width: int = 64  # from scratch
  layers: int = 2  # from scratch
  heads: int = 4  # from scratch
  feed_forward: int = 192  # from scratch
  dropout: float = 0.0  # probability, in training alone
  tokenizer: str = choice('word', 'bpe')  # from scratch: made of the training texts
  tokenizer_path: str = ''  # from scratch: the tokenizer of a model (as `path`) in place of those
  vocabulary: int = 2048  # tokens at most; from scratch with `bpe`
  vocabulary_multiple: int = 1  # rows of the embedding are a multiple of it; padding is never said
  dtype: str = choice('float32', 'bfloat16')  # of the computation; parameters are float32
  attention: str = choice('xla', 'cudnn')
  remat: bool = False  # recompute each layer in the backward pass
  head: str = choice('', 'linear', 'cosine')  # classifies instead of writing answers; '': none
  pooling: str = choice('', 'last', 'first', 'mean')  # the state a head reads; '': the model's own
  added_token_init: str = choice('copy', 'mean')  # rows of __ans__ and generation tokens


@dataclasses.dataclass
class TrainConfig:
  """How it is trained."""

  learning_rate: float = 1e-5
  head_learning_rate: float = 1e-3  # of a head, in place of `learning_rate`
  adapter_learning_rate: float = 2e-4  # of adapters, in place of `learning_rate`
  weight_decay: float = 5e-4  # none on norms and biases
  l1: float = 0.0  # weight of Σ|θ| of what trains, norms and biases left out
  l2: float = 0.0  # likewise of Σθ²; unlike weight_decay it goes through Adam
  epochs: int = 5  # a task; ignored where `steps` is given
  steps: int = 0  # a task; 0: `epochs` decides
  batch_size: int = 32  # examples on all devices together
  microbatches: int = 1  # gradient accumulation: parts of a batch, computed one after another
  seed: int = 0
  trainable: tuple[str, ...] = ('.*',)  # name patterns, `!` in front freezes, first match wins
  schedule: str = choice('constant', 'cosine', 'linear', 'wsd')  # wsd: warm-up, stable, decay
  schedule_between_tasks: str = choice('rewarm', 'continue')  # one a task | one over the run
  warmup_fraction: float = 0.0  # of the schedule's steps
  decay_fraction: float = 0.2  # of the schedule's steps, down to 0 at its end; `wsd` alone
  clip_norm: float = 1.0  # of the whole gradient; 0: off
  beta2: float = 0.999  # AdamW's
  optimizer_between_tasks: str = choice('fresh', 'carried')
  added_token_rate: float = 1.0  # multiplies the updates of the rows of added tokens
  keep_best: bool = False  # the parameters with the best dev score of the task go on
  max_bad_steps: int = 10  # steps of a task, not finite and so not applied; one more ends the run
  log_every: int = 10  # steps between lines of metrics.jsonl
  fsdp: bool = False  # shard parameters and optimiser state over the devices


@dataclasses.dataclass
class AdversarialConfig:
  """Training at input embeddings moved for worse; see jcl/step/adversarial.py."""

  epsilon: float = 0.0  # length of a row's move; 0: off
  weight: float = 1.0  # of the objective there


@dataclasses.dataclass
class EvaluateConfig:
  """How it is evaluated."""

  answer: str = choice('generate', 'score')  # greedy text | the likeliest allowed label
  batch_size: int = 64  # rows a chunk of generation or scoring, on all devices together
  every_steps: int = 0  # dev score of all seen tasks inside a task; 0: off
  every_epochs: int = 0  # likewise


@dataclasses.dataclass
class CheckpointConfig:
  """What survives a kill."""

  every_steps: int = 0  # training steps that a kill costs at most; 0: no snapshots by steps
  every_chunks: int = 0  # chunks of sampling, evaluation, Fisher that it costs at most; 0: none
  every_minutes: float = 15.0  # between snapshots, at the next step or chunk; one process; 0: none
  keep_tasks: bool = False  # keep the snapshot of every finished task under tasks/


@dataclasses.dataclass
class Config:
  """A run."""

  method: Any = None  # the settings dataclass of the method, from its file
  scenario: str = choice('cil', 'til', 'iil', 'dil', 'cpt')
  stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
  backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  adversarial: AdversarialConfig = dataclasses.field(default_factory=AdversarialConfig)
  evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
  checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
