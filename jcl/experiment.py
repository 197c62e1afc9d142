"""From settings to the parts of a run: stream, text, backbone, method, tools."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jcl import methods, optimizer, parallel, streams
from jcl.backbones import Backbone
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig, from_scratch, with_settings
from jcl.backbones.tokenizer import add_tokens, bpe_tokenizer, size, word_tokenizer
from jcl.backbones.vocabulary import grow
from jcl.config import Config, check_choices
from jcl.errors import UserError
from jcl.methods import Method
from jcl.streams.stream import Stream
from jcl.streams.text import ANSWER, Text, added_tokens
from jcl.tools import Tools


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The parts of a run.

  Attributes:
    config: the settings it was made of.
    stream, text, backbone, method, tools: the parts.
    decoder_config: shape of the backbone.
    weights: pretrained parameters on the host; None: from scratch.
    added: ids of the tokens added to the tokenizer.
    longest_answer: tokens that an answer may have, end-of-sequence included.
  """

  config: Config
  stream: Stream
  text: Text
  backbone: Backbone
  decoder_config: DecoderConfig
  method: Method
  tools: Tools
  weights: Any
  added: tuple[int, ...]
  longest_answer: int

  @property
  def told(self) -> bool:
    """Whether the model is told the task at test time."""
    return self.tools.told

  def initial_params(self) -> Any:
    """The parameters that the run starts from, float32."""
    if self.weights is not None:
      return jax.tree.map(np.asarray, self.weights)
    return jax.jit(self.backbone.init)(self.tools.key('init'))


def check(config: Config) -> None:
  """Refuses what needs no data to be refused.

  Raises:
    UserError: naming the field.
  """
  check_choices(config)
  config.method.check()
  optimizer.check(config.train)
  name = methods.name_of(config.method)
  if config.scenario not in config.method.scenarios:
    known = ', '.join(config.method.scenarios)
    raise UserError(f'scenario is {config.scenario!r}, in which {name} has no meaning; use {known}')
  least = {
    'stream': {'max_length': 8},
    'backbone': {
      'width': 1,
      'layers': 1,
      'heads': 1,
      'feed_forward': 1,
      'dropout': 0,
      'vocabulary_multiple': 1,
    },
    'evaluate': {'batch_size': 1, 'every_steps': 0, 'every_epochs': 0},
    'checkpoint': {'every_steps': 0},
  }
  for section, fields in least.items():
    for field, bound in fields.items():
      value = getattr(getattr(config, section), field)
      if value < bound:
        raise UserError(f'{section}.{field} is {value}; it must be at least {bound}')
  if config.backbone.dropout >= 1:
    raise UserError(f'backbone.dropout is {config.backbone.dropout}; it must be below 1')
  if name == 'joint' and config.train.steps:
    raise UserError('train.steps counts one task and joint trains on all; use train.epochs with it')


def check_classes(config: Config, stream: Stream) -> None:
  """Refuses settings that need classes where answers are free.

  Raises:
    UserError: naming the field.
  """
  if stream.classes:
    return
  if config.evaluate.answer == 'score':
    raise UserError("evaluate.answer is 'score', but the answers are free; use 'generate'")
  if getattr(config.method, 'require_known_label', False):
    raise UserError('method.require_known_label is set, but the answers are free and no labels')


def assemble(config: Config, mesh: Any = None) -> Experiment:
  """Reads the stream and the backbone and puts the parts together.

  Args:
    config: the settings.
    mesh: of devices; None: all local ones.

  Raises:
    UserError: for settings or files that cannot be used.
  """
  check(config)
  need_dev = (
    config.train.keep_best or config.evaluate.every_steps > 0 or config.evaluate.every_epochs > 0
  )
  stream = streams.load(config.stream, need_dev=need_dev)
  check_classes(config, stream)
  text_format = config.method.text_format
  shape, weights, tokenizer, special, added = _backbone(config, stream, text_format)
  limit = min(config.stream.max_length, shape.max_positions)
  text = Text(tokenizer, special, stream.template, text_format, limit)
  backbone = decoder(shape)
  tools = Tools(
    backbone, text, stream, parallel.make_mesh() if mesh is None else mesh,
    config.train.seed, config.evaluate.batch_size,
    told=config.scenario == 'til' or 'task_id' in config.method.needs,
  )  # fmt: skip
  examples = stream.examples
  longest = text.reserve = max(text.answer_length(e) for e in examples)
  text.cut.clear()
  for example in examples:
    text.prompt(example)  # every text is looked at before anything is written
  return Experiment(
    config, stream, text, backbone, shape, methods.make(backbone, config.method), tools, weights,
    tuple(added), longest,
  )  # fmt: skip


def _backbone(config: Config, stream: Stream, text_format: str) -> tuple:
  """-> decoder config, weights or None, tokenizer with the added tokens, special ids, added ids."""
  names = added_tokens(text_format, len(stream))
  settings = config.backbone
  if not settings.path:
    texts = [s for t in stream.tasks for e in t.train for s in _words(e, stream.template)]
    if settings.tokenizer == 'bpe':
      tokenizer, special = bpe_tokenizer(texts, settings.vocabulary)
    else:
      tokenizer, special = word_tokenizer(texts)
    added = add_tokens(tokenizer, names)
    return from_scratch(settings, size(tokenizer)), None, tokenizer, special, added
  from jcl.backbones import hf  # readers of files that a run from scratch does not need

  shape, weights, tokenizer, special = hf.load(settings.path)
  shape = with_settings(shape, settings)
  added = add_tokens(tokenizer, names)
  new = [n for n, i in zip(names, added, strict=True) if i >= shape.vocabulary]
  if new or settings.vocabulary_multiple > 1:
    newline = tokenizer.encode('\n', add_special_tokens=False).ids or [special.eos]
    opening = special.eos if special.bos is None else special.bos
    like = [newline[-1] if name == ANSWER else opening for name in new]
    shape, weights = grow(
      shape,
      weights,
      len(new),
      like,
      config.train.seed,
      init=settings.added_token_init,
      multiple=settings.vocabulary_multiple,
    )
  return shape, weights, tokenizer, special, added


def _words(example: Any, template: str) -> tuple[str, str, str]:
  """The texts that a tokenizer made from scratch must know: input, answer, template."""
  return example.text, example.answer, template.replace('{x}', ' ').replace('{y}', ' ')
