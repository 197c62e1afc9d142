"""Every setting as a typed dataclass: default, unit, one line of meaning.

`get_config(method)` in a file of `configs/` returns a `Config`; launchers override fields by flags
(`--config.train.learning_rate=3e-4`). Defaults < config file < flags. A method's own settings are a
dataclass in the method's file and stand in `Config.method`.
"""

import dataclasses
from typing import Any

from jcl.config.fields import GIVEN, Other, choice, number, only_with
from jcl.config.group import Group, explanations, plain, unknown
from jcl.config.reading import Unread, check_read, refused, unread
from jcl.config.values import check_values, entry_type, set_sequences

__all__ = [
  'GIVEN', 'AdversarialConfig', 'BackboneConfig', 'CheckpointConfig', 'Config', 'EvaluateConfig',
  'Group', 'Other', 'StreamConfig', 'TrainConfig', 'Unread', 'check_read', 'check_values', 'choice',
  'entry_type', 'explanations', 'number', 'only_with', 'plain', 'refused', 'set_sequences',
  'unknown', 'unread',
]  # fmt: skip


LAMOL = ('lamol', 'lamol_task')  # formats of rows with tokens that the tokenizer lacks
ADDED = {'config.text_format': LAMOL}
ADDING = 'a method of LAMOL, without a head, for it adds tokens'
SCRATCH = {'path': ''}
MADE = {**SCRATCH, 'tokenizer_path': ''}
PUBLISHED_TASKS = ('long_sequence', 'standard_cl', 'trace', 'superni')


@dataclasses.dataclass
class StreamConfig(Group):
  """Settings of the stream of tasks that is learned."""

  # synthetic | files | classes | a published stream (streams/registry.py) | package.module:reader |
  # an entry point
  name: str = 'synthetic'
  # folder or manifest that holds the data; empty for synthetic
  path: str = only_with('', {'name': Other('synthetic')})
  # classes a task; `classes`, and benchmarks with classes alone
  classes_per_task: int = only_with(
    number(10, least=1),
    {'name': Other('synthetic', 'files', 'rows', 'concept1k', *PUBLISHED_TASKS)},
  )
  # A published order, as `2`, or names of tasks with commas between them; '': the first order.
  task_order: str = only_with('', {'name': PUBLISHED_TASKS})
  max_tasks: int = number(0, least=0)  # tasks; 0: all
  # Examples a task, taken from each class in turn, in file order; 0: all.
  max_train_per_task: int = number(0, least=0)
  max_test_per_task: int = number(0, least=0)  # of test and of dev, taken likewise; 0: all
  # Order of classes (for own files: of tasks); -1: as in the files.
  order_seed: int = number(-1, least=-1)
  # Training texts that occur in test; '': `refuse` for own files, `keep` for benchmarks.
  overlap: str = choice('', 'refuse', 'drop', 'keep')
  # Share of each class of train that becomes test in tasks without a test split; 0: refuse those.
  test_fraction: float = number(0.0, least=0, below=1)
  test_seed: int = only_with(number(0, least=0), {'test_fraction': GIVEN})  # chooses these rows
  # Share of train that becomes dev, if dev scores are asked for and the stream has no dev split.
  dev_fraction: float = only_with(
    number(0.1, above=0, below=1),
    {'train.keep_best': True},
    {'evaluate.every_steps': GIVEN},
    {'evaluate.every_epochs': GIVEN},
  )
  # plain rows, with {x} and {y}; empty: the stream's own
  template: str = only_with(
    '', {'config.text_format': 'plain'}, says='rows that it writes: no head, no LAMOL, no raw text'
  )
  # A name of chat_templates.NAMED, a .jinja file, or `model`: the model's own. Empty: the model's
  # own for conversations, none for other rows.
  chat_template: str = ''
  # Day that a chat template writes, YYYY-MM-DD; empty: the day on which the run began.
  chat_date: str = ''
  # turns of the assistant that the loss counts
  loss_turns: str = only_with(
    choice('all', 'last'), {'config.text_format': 'plain'}, says='rows that are conversations'
  )
  # Tokens a row, cpt: a block. The input of a longer row is cut, never its answer.
  max_length: int = number(512, least=8)
  # A row whose text holds a special token of the tokenizer: refused, read as text, or left out.
  special_tokens_in_text: str = choice('refuse', 'text', 'drop')
  # folder of tokenised corpora, cpt; empty: ~/.cache/jcl/corpora
  cache: str = only_with('', {'config.scenario': 'cpt'})


@dataclasses.dataclass
class BackboneConfig(Group):
  """Settings of the model that learns: one from a file, or a small decoder from scratch."""

  path: str = ''  # folder, GGUF file or hub name; empty: a small decoder from scratch
  # package.module:name of a Family; empty: found by the model_type of `path`
  family: str = only_with('', {'path': GIVEN})
  width: int = only_with(number(64, least=1), SCRATCH)  # hidden size; from scratch
  layers: int = only_with(number(2, least=1), SCRATCH)  # number of layers; from scratch
  heads: int = only_with(number(4, least=1), SCRATCH)  # attention heads; from scratch
  feed_forward: int = only_with(number(192, least=1), SCRATCH)  # of the MLP; from scratch
  dropout: float = number(0.0, least=0, below=1)  # probability, in training only
  # made of the training texts; from scratch
  tokenizer: str = only_with(choice('word', 'bpe'), MADE)
  tokenizer_path: str = ''  # take the tokenizer of this model (as `path`); from scratch
  # tokens at most, with `bpe`; from scratch
  vocabulary: int = only_with(number(2048, least=1), {'tokenizer': 'bpe', **MADE})
  # The embedding has a multiple of so many rows; padding rows are never predicted.
  vocabulary_multiple: int = number(1, least=1)
  dtype: str = choice('float32', 'bfloat16')  # of the computation; parameters are float32
  attention: str = choice('xla', 'cudnn')  # implementation
  remat: bool = False  # recompute each layer in the backward pass
  head: str = choice('', 'linear', 'cosine')  # classifies instead of writing answers; '': none
  # state that a head reads; '': the model's own
  pooling: str = only_with(
    choice('', 'last', 'first', 'mean'),
    {'backbone.head': GIVEN, 'method.chooses_state': False},
    says='backbone.head given, and method.choose_state not',
  )
  # of a pretrained model, so many blocks from the first on, read by a head; 0: all
  depth: int = only_with(number(0, least=0), {'path': GIVEN, 'backbone.head': GIVEN})
  # embedding rows of __ans__ and generation tokens
  added_token_init: str = only_with(
    choice('copy', 'mean'), {'path': GIVEN, **ADDED}, says=f'a pretrained model and {ADDING}'
  )


@dataclasses.dataclass
class TrainConfig(Group):
  """How each task is trained."""

  # Of the model; None: by what trains, see `jcl.step.rates`.
  learning_rate: float | None = only_with(
    number(None, least=0),
    {'method.adapters': (False, None)},
    says='a method that trains the model; adapters have train.adapter_learning_rate',
  )
  # of a head, in place of `learning_rate`
  head_learning_rate: float = only_with(number(1e-3, least=0), {'backbone.head': GIVEN})
  # of adapters, in place of `learning_rate`
  adapter_learning_rate: float = only_with(
    number(2e-4, least=0), {'method.adapters': (True, None)}, says='a method of adapters, as lora'
  )
  weight_decay: float = number(5e-4, least=0)  # none on norms and biases
  l1: float = number(0.0, least=0)  # weight of Σ|θ| over what trains, without norms and biases
  l2: float = number(0.0, least=0)  # weight of Σθ²; unlike weight_decay it goes through Adam
  dft: bool = False  # weigh each target's cross-entropy by its probability, without a gradient
  epochs: int = only_with(number(5, least=1), {'steps': 0})  # of a task; `steps` takes their place
  steps: int = number(0, least=0)  # of a task; 0: `epochs` decides
  batch_size: int = number(32, least=1)  # examples on all devices together
  # Gradient accumulation: a batch is computed in so many parts, one after another.
  microbatches: int = number(1, least=1)
  # Several rows in one line of a batch: never | where much of it is padding | always.
  packing: str = only_with(
    choice('auto', 'off', 'on'),
    {'config.scenario': Other('cpt')},
    says='rows of texts; blocks of raw text are full',
  )
  seed: int = number(0, least=0)  # of every draw but the order of the stream
  trainable: tuple[str, ...] = ('.*',)  # name patterns, `!` in front freezes, first match wins
  schedule: str = choice('constant', 'cosine', 'linear', 'wsd')  # wsd: warm-up, stable, decay
  # one schedule for each task | one over the whole run
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
  # multiplies the updates of added tokens' rows
  added_token_rate: float = only_with(
    number(1.0, least=0),
    {**ADDED, 'method.adapters': (False, None), 'method.block_every': 0},
    says=f'{ADDING} and trains their rows',
  )
  keep_best: bool = False  # a task ends with the parameters of its best dev score
  # Steps of a task that are not finite and so not applied; one more ends the run.
  max_bad_steps: int = number(10, least=0)
  # Most steps between two logged ones. The last step of a task is always logged, and of a short
  # task at least 16 are.
  log_every: int = number(10, least=1)
  speed_every: float = number(30.0, least=0)  # seconds between lines about speed; 0: none
  # Steps between two measures of the gradient of each term: after step 10 of a task, 110, …, and
  # after its last; 0: none.
  gradient_norms_every: int = number(100, least=0)
  fsdp: bool = False  # shard parameters and optimiser state over the devices
  # devices that share each layer: attention heads, feed-forward part and vocabulary
  tensor: int = number(1, least=1)


@dataclasses.dataclass
class AdversarialConfig(Group):
  """Adversarial training: the input embeddings are moved to where the loss is higher."""

  epsilon: float = number(0.0, least=0)  # length of a row's move; 0: off
  # Weight of the objective at the moved embeddings.
  weight: float = only_with(number(1.0, least=0), {'epsilon': GIVEN})


@dataclasses.dataclass
class EvaluateConfig(Group):
  """How the model is evaluated."""

  # greedy text | the likeliest allowed label
  answer: str = only_with(choice('generate', 'score'), {'backbone.head': ''})
  # what the matrix holds of answers; '': the metric of each task's stream, mostly exact_match
  metric: str = only_with(
    choice('', 'exact_match', 'first_word', 'token_f1', 'rouge_l', 'edit_similarity', 'macro_f1'),
    {'config.scenario': Other('cpt')},
    says='answers; raw text has none',
  )
  # Rows a chunk of generation or scoring, on all devices together.
  batch_size: int = number(64, least=1)
  # Text file that no task has: nats per token of it, and KL from the first model, after each task.
  probe: str = only_with(
    '', {'backbone.head': ''}, says='a model that writes; a head predicts no text'
  )
  every_steps: int = number(0, least=0)  # steps between dev scores of all seen tasks; 0: off
  every_epochs: int = number(0, least=0)  # epochs between them; 0: off


@dataclasses.dataclass
class CheckpointConfig(Group):
  """How much a kill may cost."""

  every_steps: int = number(0, least=0)  # training steps at most; 0: no snapshots by steps
  # Chunks of sampling, evaluation or Fisher at most; 0: no snapshots by chunks.
  every_chunks: int = number(0, least=0)
  # Minutes between snapshots, at the next step or chunk; runs of one process only; 0: off.
  every_minutes: float = number(15.0, least=0)
  keep_tasks: bool = False  # keep the snapshot of every finished task under tasks/


@dataclasses.dataclass
class Config(Group):
  """A run."""

  method: Any = None  # settings of the method: an object of its `Settings` class
  # What is told at test time, and what is learned; see docs/methods.md.
  scenario: str = choice('cil', 'til', 'iil', 'dil', 'cpt')
  stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
  backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  adversarial: AdversarialConfig = dataclasses.field(default_factory=AdversarialConfig)
  evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
  checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
  # Names of settings that a config file sets, such as `train.epochs`. It has no annotation, so that
  # it is no field of the dataclass and is not stored.
  from_file = frozenset[str]()

  @property
  def text_format(self) -> str:
    """The text format of the run: `packed` in cpt, `class` with a head, else the method's."""
    if self.scenario == 'cpt':
      return 'packed'
    return 'class' if self.backbone.head else self.method.text_format
