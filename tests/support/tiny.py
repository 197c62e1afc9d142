"""Tiny models, uneven rows and a stream of three tasks, for tests of what holds for all."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcl.backbones import Backbone, heads
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.layers import add_delta
from jcl.backbones.tokenizers import add_tokens, vocabulary_size, word_tokenizer
from jcl.batching.batch import Batch, Row, Shape, layout
from jcl.batching.text_formats import Text, added_tokens
from jcl.config import TrainConfig
from jcl.methods import Method, Settings
from jcl.step import losses, sharding
from jcl.streams.stream import Example, Stream, Task
from jcl.training.hook_tools import HookTools, make_tools
from support import rounding

CONFIG = DecoderConfig(30, width=16, layers=2, heads=4, kv_heads=2, feed_forward=24, rows=32)
OBJECTS = ('lamp', 'door', 'soup', 'song', 'card', 'train')
CLASSES = ('switch on', 'open', 'cook', 'play', 'block', 'book')
OWN = np.arange(6) // 2 == np.arange(3)[:, None]  # [tasks, C], two classes a task


def rows(count: int = 13, seed: int = 0, longest: int = 20) -> list[Row]:
  """Rows of 4 … `longest` tokens with 1 … 6 targets; a third replay, a third generative."""
  random = np.random.default_rng(seed)
  made = []
  for number in range(count):
    length = int(random.integers(4, longest + 1))
    targets = np.sort(random.permutation(length - 1)[: random.integers(1, 7)])
    tokens = random.integers(0, CONFIG.vocabulary, length).astype(np.int32)
    wanted = random.integers(0, CONFIG.vocabulary, len(targets)).astype(np.int32)
    kinds = {'replay': number % 3 == 0, 'generative': number % 4 == 1}
    made.append(Row(tokens, targets, wanted, number, number % 3, **kinds))
  return made


def class_rows(count: int = 13) -> list[Row]:
  """Rows with one target each, a class of their task, for a head over six classes."""
  made = []
  for r in rows(count, seed=1):
    wanted = np.array([2 * r.task + r.number % 2])
    made.append(Row(r.tokens, np.array([len(r.tokens) - 1]), wanted, r.number, r.task, r.replay))
  return made


def every_position(
  tokens_BT: np.ndarray, lengths: Sequence[int] | None = None, bucket: int | None = None
) -> Batch:
  """A batch with a target at every real position, its rows in their order where equally long."""
  rows, length = tokens_BT.shape
  lengths = [length] * rows if lengths is None else lengths
  made = [
    Row(tokens[:n], np.arange(n), np.zeros(n, np.int32), i, 0)
    for i, (tokens, n) in enumerate(zip(tokens_BT.astype(np.int32), lengths, strict=True))
  ]
  keys = np.arange(2 * rows, dtype=np.uint32).reshape(rows, 2)
  return layout(made, 1, Shape(rows, bucket or length, sum(lengths)), keys=keys)


def keys(count: int, seed: int = 0) -> np.ndarray:
  """[count, 2] uint32 key data."""
  return np.random.default_rng(seed).integers(2**32, size=(count, 2), dtype=np.uint32)


def params(backbone: Backbone, seed: int = 0) -> dict:
  """Random parameters as large as initial ones; none is the constant that it starts at.

  NumPy draws those of a decoder or encoder, whose `init` takes a second to compile.
  """
  random, key = np.random.default_rng(seed), jax.random.key(seed)
  shapes = jax.eval_shape(backbone.init, key)
  if 'mix' in shapes:  # of `recurrent`
    noisy = lambda x: jnp.asarray(x + (0.1 * random.standard_normal(x.shape)).astype(x.dtype))
    return jax.tree.map(noisy, jax.device_get(backbone.init(key)))

  def draw(path, leaf):
    part, kind, noise = path[0].key, path[-1].key, random.standard_normal(leaf.shape)
    if kind == 'embedding':
      noise *= leaf.shape[-1] ** -0.5
    elif kind == 'kernel':
      noise *= leaf.shape[-2] ** -0.5
    else:
      noise = {'scale': heads.SCALE if part == 'head' else 1}.get(kind, 0) + 0.1 * noise
    return jnp.asarray(noise.astype(leaf.dtype))

  return jax.tree.map_with_path(draw, shapes)


@functools.cache
def recurrent(vocabulary: int, classes: int = 0, width: int = 16) -> Backbone:
  """A model of three small matrices, causal and quick to compile: a state mixes token and past.

  Equal arguments give the same record: what is compiled for one is compiled for all.
  """

  def init(key):
    shapes = {'embed': (-(-vocabulary // 8) * 8, width), 'mix': (width, width), 'bias': (width,)}
    if classes:
      shapes['head'] = (width, classes)
    draw = lambda i, shape: 0.5 * jax.random.normal(jax.random.fold_in(key, i), shape)
    return {name: {'kernel': draw(i, shape)} for i, (name, shape) in enumerate(shapes.items())}

  def hidden(params, batch, train=False):
    x_BTD = add_delta(params['embed']['kernel'][batch.tokens], batch.embedding_delta)
    if batch.segment is None:
      past_BTD = jnp.cumsum(x_BTD, 1) / (1 + jnp.arange(x_BTD.shape[1]))[None, :, None]
    else:
      same_BTS = batch.segment[:, :, None] == batch.segment[:, None]
      past_BTS = (same_BTS & jnp.tri(x_BTD.shape[1], dtype=bool)[None]).astype(x_BTD.dtype)
      past_BTD = past_BTS @ x_BTD / (1 + batch.position)[..., None]
    y_BTD = x_BTD + past_BTD @ params['mix']['kernel'] + params['bias']['kernel'][None, None]
    return jnp.tanh(y_BTD).reshape(-1, width)[batch.target_position]

  def project(params, hidden_MD):
    if classes:
      return hidden_MD @ params['head']['kernel']
    return (hidden_MD @ params['embed']['kernel'].T)[:, :vocabulary]

  read = 'head' if classes else 'embed'
  unembedding = lambda params: {read: params[read]}
  return Backbone(init, hidden, project, unembedding, None, None, width, classes, vocabulary, True)


def past(params: dict) -> dict:
  """A quadratic around `params`, as the end of old tasks leaves it."""
  fisher = jax.tree.map(jnp.square, params)
  return {'fisher': fisher, 'anchor': params, 'constant': jnp.asarray(0.75, jnp.float32)}


def inner_step(backbone) -> Method:
  """The loss of all rows after one step down the loss of the new ones (the form of MAML)."""

  def objective(plain):
    def wrapped(params, batch):
      gradient = jax.grad(lambda p: plain(p, batch.only(~batch.replay_M))[0])(params)
      return plain(jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), batch)

    return wrapped

  return Method(objective=objective)


def taught(backbone) -> Method:
  """Cross-entropy of new rows, squared distance to a teacher's logits on old ones."""

  def loss_fn(params, teacher_params, batch):
    logits_MV = backbone.logits(params, batch)
    distance_M = jnp.square(logits_MV - backbone.logits(teacher_params, batch)).mean(-1)
    ce_M = losses.cross_entropy(logits_MV, batch.target_token)
    return {'ce': (ce_M, ~batch.replay_M), 'mse': (distance_M, batch.replay_M)}

  return Method(loss_fn=loss_fn)


def stream(examples: int = 6) -> Stream:
  """Three tasks of two classes: `examples` training, 2 dev and 3 test examples each."""
  tasks, number = [], 0
  for index in range(3):
    splits = []
    for name, count in (('train', examples), ('dev', 2), ('test', 3)):
      split = []
      for i in range(count):
        label = 2 * index + i % 2
        words = ['please'] * (i % 3) + ['the', OBJECTS[label], name] + ['now'] * (i // 2)
        text = ' '.join(words)
        split.append(Example(number, text, CLASSES[label], index, label, f'{name}-{index}-{i}'))
        number += 1
      splits.append(tuple(split))
    tasks.append(Task(index, f't{index}', *splits, (2 * index, 2 * index + 1), last=index == 2))
  return Stream('tiny', tuple(tasks), CLASSES)


def sharing(of: Stream, classes_of: Sequence[Sequence[int]]) -> Stream:
  """The stream of three tasks with other classes, two a task, which tasks may share."""

  def relabelled(example: Example) -> Example:
    label = classes_of[example.task][example.label % 2]
    return dataclasses.replace(example, label=label, answer=CLASSES[label])

  def changed(task: Task) -> Task:
    splits = {s: tuple(map(relabelled, getattr(task, s))) for s in ('train', 'dev', 'test')}
    return dataclasses.replace(task, **splits, classes=tuple(classes_of[task.index]))

  return dataclasses.replace(of, tasks=tuple(map(changed, of.tasks)))


def text(text_format: str, of: Stream, max_length: int = 64) -> Text:
  """A word tokenizer of the stream's training texts in a format."""
  frame = of.template.replace('{x}', ' ').replace('{y}', ' ')
  words = [s for t in of.tasks for e in t.train for s in (e.text, e.answer, frame)]
  tokenizer, special = word_tokenizer(words)
  add_tokens(tokenizer, added_tokens(text_format, len(of)))
  return Text(tokenizer, special, of.template, text_format, max_length)


def tools(
  text_format: str = 'lamol', devices: int = 1, batch_size: int = 8, make=recurrent, **sizes
) -> HookTools:
  """Tools of a run on the stream of three tasks, with a model of its vocabulary."""
  of = stream(**sizes)
  words = text(text_format, of)
  backbone = make(vocabulary_size(words.tokenizer))
  train = TrainConfig(learning_rate=1e-2)
  return make_tools(backbone, words, of, sharding.make_mesh(devices), 0, batch_size, train=train)


def small_decoder(vocabulary: int, **more) -> Backbone:
  """A decoder of two layers."""
  return decoder(DecoderConfig(vocabulary, width=16, layers=2, heads=4, feed_forward=24, **more))


def tools_for(settings: Settings, **sizes) -> HookTools:
  """Tools as a method needs them: its text format; a linear head, or layers, where it needs one."""
  if 'linear_head' not in settings.needs:
    make = small_decoder if 'tree' in settings.brings else recurrent
    return tools(settings.text_format, make=make, **sizes)
  head = dict(classes=len(CLASSES), random_features=settings.random_features)
  made = tools('class', make=functools.partial(small_decoder, **head), **sizes)
  return dataclasses.replace(made, membership=OWN, task_index=len(OWN) - 1)


# Sums behind a loss of `recurrent`, for `rounding`: past, mixed state, projection, softmax, mean
# over at most 64 targets; a gradient goes through them twice.
LOSS, GRADIENT = dict(terms=64, depth=5), dict(terms=64, depth=10)
# Those of a decoder of two layers, whose gradient the mean and the softmax close.
DEEP_ROUNDING = rounding.tolerance(64, rounding.layers(2, gradient=True))


def nearly(wanted):
  """A loss of `recurrent`, or a dict or list of such, up to rounding."""
  return pytest.approx(wanted, rel=rounding.tolerance(**LOSS))
