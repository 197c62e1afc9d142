"""The model that a run starts from, with its tokenizer: from scratch, or pretrained."""

import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
from tokenizers import Tokenizer

from jcl import methods
from jcl.backbones import heads
from jcl.backbones.decoder_config import DecoderConfig, from_scratch
from jcl.backbones.files.companions import Companions
from jcl.backbones.files.stored import rereadable
from jcl.backbones.model_config import ModelConfig, with_settings
from jcl.backbones.models import make_backbone
from jcl.backbones.new_tokens import APART, NOISE, add_token_rows, with_new_tokens
from jcl.backbones.tokenizers import (
  SpecialIds,
  add_tokens,
  bpe_tokenizer,
  check_same_vocabulary,
  vocabulary_size,
  word_tokenizer,
)
from jcl.batching.chat_choice import Choice, choose, scratch_texts
from jcl.batching.text_formats import ANSWER, Text, added_tokens
from jcl.config import BackboneConfig, Config, Unread
from jcl.errors import UserError, count_of
from jcl.memory.teacher import ExternalTeacher
from jcl.step import sharding
from jcl.streams.stream import Stream
from jcl.training.inputs import tokenizer_digests, weights_digest
from jcl.training.model_shape import shape_fields
from jcl.types import Json, Params

if TYPE_CHECKING:
  from jcl.backbones.files.hf import Loaded


class StartModel(NamedTuple):
  """The model that a run starts from.

  Attributes:
    shape: shape of the model, with rows of added tokens and with the head.
    params: float32 NumPy arrays, or leaves that are still in the files; None: the run draws them,
      or they are not to be read.
    tokenizer: tokenizer with the tokens that the text format adds.
    special: ids of beginning-of-sequence, end-of-sequence and padding.
    added: ids of the tokens that were added.
    chat: chat template of the run.
    tokenizer_digest: digests of the tokenizer before tokens were added.
    files: the weights as the files have them, before blocks, rows or a head change; None as above.
    companions: files that go with the model, such as chat templates.
    notes: a line for each contradiction in its files that was resolved, and for what is unused.
    unread: settings that are given and that nothing reads.
  """

  shape: ModelConfig
  params: Params | None
  tokenizer: Tokenizer
  special: SpecialIds
  added: tuple[int, ...]
  chat: Choice
  tokenizer_digest: dict[str, str]
  files: Params | None
  companions: Companions = Companions()
  notes: tuple[str, ...] = ()
  unread: tuple[Unread, ...] = ()


def start_model(
  config: Config, stream: Stream, loaded: 'Loaded | None' = None, weights: bool = True
) -> StartModel:
  """Reads or makes the model that a run starts from.

  Args:
    config: settings of the run.
    stream: tasks of the run; a tokenizer from scratch is made of their training rows.
    loaded: a pretrained model in place of the one at `backbone.path`.
    weights: read the parameters too.

  Raises:
    UserError: the files cannot be used, or the model does not fit the method.
  """
  if config.backbone.path or loaded:
    return _pretrained(config, stream, loaded, weights)
  return _from_scratch(config, stream)


def _from_scratch(config: Config, stream: Stream) -> StartModel:
  """Returns a model without parameters; its tokenizer is made here or read."""
  settings, text_format = config.backbone, config.text_format
  names = added_tokens(text_format, len(stream))
  companions = Companions()
  notes: tuple[str, ...] = ()
  if settings.tokenizer_path:
    from jcl.backbones.files import hf  # other runs from scratch need no reader of files

    _, _, tokenizer, special, companions, notes = hf.load(settings.tokenizer_path, weights=False)
    chat = choose(config.stream, stream, text_format, companions)
    companions = dataclasses.replace(companions, generation={})
  else:
    chat = choose(config.stream, stream, text_format)
    texts = scratch_texts(chat, stream, text_format, names)
    if settings.tokenizer == 'bpe':
      tokenizer, special = bpe_tokenizer(texts, settings.vocabulary)
    else:
      tokenizer, special = word_tokenizer(texts)
  digest = tokenizer_digests(tokenizer, special)
  added = tuple(add_tokens(tokenizer, names))
  classes = len(stream.classes) if settings.head else 0
  read = config.method.random_features, config.method.chooses_state
  shape = from_scratch(settings, vocabulary_size(tokenizer), classes, *read)
  return StartModel(shape, None, tokenizer, special, added, chat, digest, None, companions, notes)


def _pretrained(
  config: Config, stream: Stream, loaded: 'Loaded | None', weights: bool
) -> StartModel:
  """Returns a pretrained model with rows for the added tokens and the head of the run."""
  from jcl.backbones.files import hf

  settings = config.backbone
  if 'pre_norm' in config.method.needs:
    known = loaded.config if loaded else hf.load_config(settings.path, settings.family)
    check_pre_norm(known, config)
  found = loaded or hf.load(settings.path, weights, settings.family, stored=True)
  shape, read, tokenizer, special, companions, notes = found
  files = params = None if read is None else jax.tree.map(rereadable, read)
  chat = choose(config.stream, stream, config.text_format, companions)
  digest = tokenizer_digests(tokenizer, special)
  classes = len(stream.classes) if settings.head else 0
  if not classes and (not isinstance(shape, DecoderConfig) or shape.classes):
    raise UserError(
      f'backbone.path: {settings.path} writes no answers; give backbone.head=linear or cosine'
    )
  if classes and settings.depth:
    shape, params = _cut(shape, params, settings.depth)
  features = config.method.random_features, config.method.chooses_state
  shape = with_settings(shape, settings, classes, *features)
  if classes and params is not None:
    params = {k: v for k, v in params.items() if k != 'unembed'}
    params['head'] = heads.init(jax.random.key(config.train.seed), shape)
  names = added_tokens(config.text_format, len(stream))
  added = tuple(add_tokens(tokenizer, names))
  new = [n for n, i in zip(names, added, strict=True) if i >= shape.vocabulary]
  multiple, unread = settings.vocabulary_multiple, []
  if names and not new and settings.added_token_init != BackboneConfig.added_token_init:
    why = 'the model has these tokens already'
    unread.append(Unread('backbone.added_token_init', settings.added_token_init, why))
  if params is None:
    shape = with_new_tokens(shape, len(new), multiple)
  elif new or multiple > 1:
    newline = tokenizer.encode('\n', add_special_tokens=False).ids or [special.eos]
    opening = special.eos if special.bos is None else special.bos
    like = [newline[-1] if name == ANSWER else opening for name in new]
    init: Literal['copy', 'mean'] = 'mean' if settings.added_token_init == 'mean' else 'copy'
    of_tasks = init == 'copy' and len(names) > 2
    noise = [APART if of_tasks and name != ANSWER else NOISE for name in new]
    shape, params = add_token_rows(
      shape, params, len(new), like, config.train.seed, init, multiple, noise
    )
  return StartModel(
    shape, params, tokenizer, special, added, chat, digest, files, companions, notes, tuple(unread)
  )


def _cut(
  shape: ModelConfig, params: Params | None, depth: int
) -> tuple[ModelConfig, Params | None]:
  """Returns a model of the first `depth` blocks, and what comes before and after all blocks.

  Raises:
    UserError: there are fewer blocks.
  """
  if depth > shape.layers:
    blocks = count_of(shape.layers, 'block')
    raise UserError(f'backbone.depth is {depth}, but the model has {blocks}')
  if params is not None:
    from jcl.backbones.files.stored import first

    params = {**params, 'layers': jax.tree.map(lambda leaf: first(leaf, depth), params['layers'])}
  return shape.with_depth(depth), params


def check_pre_norm(shape: ModelConfig, config: Config) -> None:
  """Refuses a model whose added blocks cannot be the identity.

  Raises:
    UserError: it is an encoder.
  """
  if not isinstance(shape, DecoderConfig):
    name = methods.name_of(config.method)
    raise UserError(
      f'backbone.path: {config.backbone.path} is no decoder, and {name} adds blocks that must be '
      'able to change nothing'
    )


def outside_teacher(
  config: Config, text: Text, weights: bool
) -> tuple[ExternalTeacher | None, str | None, Json]:
  """Returns the model that the method's `teacher_path` names, its weights' digest and its shape.

  The first two are None without a `teacher_path`, and the shape is empty.

  Raises:
    UserError: it is no language model, or its vocabulary or length does not fit the run's rows.
  """
  path = config.method.teacher_path
  if not path:
    return None, None, {}
  from jcl.backbones.files import hf

  family = config.method.teacher_family
  shape, params, tokenizer, *_ = hf.load(path, weights, family, stored=True)
  if not isinstance(shape, DecoderConfig) or shape.classes:
    raise UserError(f'method.teacher_path: {path} writes no answers; take a language model')
  check_same_vocabulary(text.tokenizer, tokenizer, f'method.teacher_path: {path}')
  if shape.max_positions < text.max_length:
    raise UserError(
      f'method.teacher_path: {path} reads {shape.max_positions} tokens, rows have up to '
      f'{text.max_length}; lower stream.max_length'
    )
  split = sharding.split_of(config.train.tensor)
  backbone = make_backbone(with_settings(shape, config.backbone), split)
  digest = None if params is None else weights_digest(params)
  if params is None:
    params = jax.eval_shape(backbone.init, jax.random.key(0))
  return ExternalTeacher(backbone, params), digest, shape_fields(shape)
