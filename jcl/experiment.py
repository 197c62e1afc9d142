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
    return self.config.scenario == 'til' or 'task_id' in self.config.method.needs

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
  if config.stream.max_length < 8:
    raise UserError(f'stream.max_length is {config.stream.max_length}; it must be at least 8')
  for section, field in (('evaluate', 'batch_size'), ('train', 'batch_size')):
    if getattr(getattr(config, section), field) < 1:
      raise UserError(f'{section}.{field} must be at least 1')


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
  if config.stream.template:
    stream = dataclasses.replace(stream, template=config.stream.template)
  text_format = config.method.text_format
  shape, weights, tokenizer, special, added = _backbone(config, stream, text_format)
  limit = min(config.stream.max_length, shape.max_positions)
  text = Text(tokenizer, special, stream.template, text_format, limit)
  backbone = decoder(shape)
  tools = Tools(
    backbone, text, stream, parallel.make_mesh() if mesh is None else mesh,
    config.train.seed, config.evaluate.batch_size,
  )  # fmt: skip
  return Experiment(
    config, stream, text, backbone, shape, methods.make(backbone, config.method), tools, weights,
    tuple(added), max(text.answer_length(e) for t in stream.tasks for e in t.train),
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
  if added:
    newline = tokenizer.encode('\n', add_special_tokens=False).ids
    opening = special.eos if special.bos is None else special.bos
    like = [newline[-1] if name == ANSWER else opening for name in names]
    shape, weights = grow(
      shape, weights, len(added), like, config.train.seed, init=settings.added_token_init
    )
  return shape, weights, tokenizer, special, added


def _words(example: Any, template: str) -> tuple[str, str, str]:
  """The texts that a tokenizer made from scratch must know: input, answer, template."""
  return example.text, example.answer, template.replace('{x}', ' ').replace('{y}', ' ')
