"""The run that is measured: data, model and settings, and the weights that all contenders get."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from jcl import methods
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.models import make_backbone
from jcl.backbones.tokenizers import bpe_tokenizer, vocabulary_size
from jcl.batching import epochs
from jcl.batching.batch import Row
from jcl.benchmarks import RATE
from jcl.benchmarks.request import Request
from jcl.benchmarks.work import Lesson
from jcl.config import BackboneConfig, Config, EvaluateConfig, StreamConfig, TrainConfig
from jcl.errors import UserError
from jcl.methods.lamol_kd import LamolKd
from jcl.streams.stream import Example, Task, TaskPlan
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader
from jcl.training.experiment import Experiment
from jcl.training.step_inputs import inputs_on_devices
from jcl.types import Params

SMALL: dict[str, Any] = {
  'width': 256,
  'layers': 4,
  'heads': 4,
  'feed_forward': 1024,
}  # the model by default
VOCABULARY = 4096  # of its tokenizer, at most
MOST_EPOCHS = 8  # in which a step with new and old rows is looked for
PSEUDO = 2**29  # number of the first replayed example, as of pseudo samples


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run that is ready to be measured.

  Attributes:
    request: what is to be measured.
    parts: of the run, by LAMOL-KD.
    params: on the host, float32, as all contenders get them.
    folder: where files may be written that are removed at the end.
  """

  request: Request
  parts: Experiment
  params: Params
  folder: pathlib.Path

  @property
  def task(self) -> Task:
    """The second task, which has a past."""
    return self.parts.stream.tasks[1]

  @property
  def settings(self) -> LamolKd:
    """The settings of the method."""
    return self.parts.config.method

  @functools.cached_property
  def past(self) -> list[Example]:
    """Rows of the first task as pseudo samples, as many as LAMOL draws before the second.

    They stand in for drawn samples, which each contender would draw for itself: so all train on
    the same rows.
    """
    text, first = self.parts.text, self.parts.stream.tasks[0]
    count = int(self.settings.gamma * len(self.task.train))
    found = []
    for i in range(count):
      one = first.train[i % len(first.train)]
      generation = text.rows(one)[1]
      tokens = tuple(generation.wanted.tolist())
      found.append(Example(PSEUDO + i, '', '', 0, tokens=tokens))
    return found

  def plan(self, new: Sequence[Example], old: Sequence[Example]) -> TaskPlan:
    """Returns the plan of LAMOL-KD for a task of new and old examples."""
    return TaskPlan(list(new), list(old), weights=self.settings.weights)

  def loaded(self, parts: Experiment | None = None) -> hf.Loaded:
    """Returns the model as files would hold it, its tokenizer a copy.

    Args:
      parts: of another run on the same model; None: of this one.
    """
    parts = self.parts if parts is None else parts
    tokenizer = Tokenizer.from_str(parts.text.tokenizer.to_str())
    special = special_ids(parts)
    return hf.Loaded(parts.decoder_config, self.params, tokenizer, special, parts.companions)

  def exported(self, parts: Experiment) -> pathlib.Path:
    """Returns a folder of Hugging Face with the model, written once: all contenders can read it.

    Args:
      parts: of a run on the model.
    """
    folder = self.folder / f'model-{id(parts)}'
    if not folder.exists():
      hf.save(folder, self.loaded(parts))
    return folder


def special_ids(parts: Experiment) -> hf.SpecialIds:
  """Returns the special ids of a run's text."""
  found = parts.text.special
  return hf.SpecialIds(found.bos, found.eos, found.pad)


def longest_row(parts: Experiment) -> int:
  """Returns the tokens of the longest training row of a stream."""
  text, tasks = parts.text, parts.stream.tasks
  return max(len(row.tokens) for task in tasks for e in task.train for row in text.rows(e))


def make(request: Request, folder: pathlib.Path) -> Setting:
  """Reads data and model, and trains the first task for a few steps.

  Args:
    request: what is to be measured.
    folder: for files that are removed at the end.

  Raises:
    UserError: data or model cannot be used, or the data have one task.
  """
  config = configured(request)
  loaded = None if request.model else small_model(request)
  parts = experiment.assemble(config, loaded=loaded)
  if len(parts.stream) < 2:
    raise UserError('--data has one task; the benchmark learns the second task after the first')
  params = parts.initial_params()
  if request.learned:
    params = learned(parts, params, request.learned)
  return Setting(request, parts, jax.tree.map(np.asarray, params), folder)


def configured(request: Request) -> Config:
  """Returns the settings of the run."""
  return Config(
    method=methods.settings('lamol_kd'),
    scenario='cil',
    stream=stream_settings(request.data),
    backbone=BackboneConfig(path=request.model, dtype=request.dtype),
    train=TrainConfig(learning_rate=RATE, batch_size=request.batch_size, seed=request.seed),
    evaluate=EvaluateConfig(batch_size=request.evaluate_rows),
  )


def stream_settings(data: str) -> StreamConfig:
  """Returns the settings of the stream that `--data` names: FOLDER, NAME:FOLDER or nothing."""
  if not data:
    return StreamConfig()
  name, colon, folder = data.partition(':')
  if colon and '/' not in name and '\\' not in name and len(name) > 1:
    return StreamConfig(name=name, path=folder)
  return StreamConfig(name='files', path=data)


def small_model(request: Request) -> hf.Loaded:
  """Returns a small GPT-2 with random weights and a tokenizer of the training texts."""
  from jcl import streams

  stream = streams.load(stream_settings(request.data), need_dev=False)
  texts = [text for e in stream.tasks[0].train for text in (e.text, e.answer)]
  tokenizer, special = bpe_tokenizer(texts, VOCABULARY)
  shape: ModelConfig = DecoderConfig(
    vocabulary=vocabulary_size(tokenizer), max_positions=max(1024, request.block), norm='layer',
    positions='learned', activation='gelu_tanh', gated=False, qkv_bias=True, o_bias=True,
    mlp_bias=True, tied=True, family='gpt2', **SMALL,
  )  # fmt: skip
  params = make_backbone(shape).init(jax.random.key(request.seed))
  return hf.Loaded(shape, jax.tree.map(np.asarray, params), tokenizer, special)


def learned(parts: Experiment, params: Params, steps: int) -> Params:
  """Returns parameters after some steps of LAMOL on the first task."""
  task = parts.stream.tasks[0]
  memory = parts.method.init(params, parts.stream, parts.tools)
  plan = parts.method.plan(memory, task)
  train = dataclasses.replace(parts.config.train, steps=steps)
  loader = BatchLoader(plan, 0, parts.tools, train)
  inputs, step = inputs_on_devices(parts, params, memory['teacher'], plan), parts.train_step()
  for loaded in loader.batches():
    inputs, metrics = inputs.after(step, RATE, loaded.batch)
    jax.block_until_ready(metrics)
  return experiment.trainable.join(inputs.state['params'], inputs.fixed[0])


def composed(
  parts: Experiment, plan: TaskPlan, task: int, batch_size: int, count: int
) -> list[list[Row]]:
  """Returns the rows of the first steps of a task, as a run composes them.

  Args:
    parts: of the run.
    plan: of the task.
    task: its index.
    batch_size: examples of a step.
    count: number of steps; where the task has a past, more until one has new and old rows.
  """
  rows_of = lambda example, replay: parts.text.rows(parts.tools.example(example), replay)
  found: list[list[Row]] = []
  epoch, missing = 0, bool(plan.old) and bool(plan.new)
  while len(found) < count or missing:
    for step in epochs.steps(plan, rows_of, parts.tools.seed, task, epoch, batch_size):
      if len(found) >= count and not missing:
        break
      found.append([in_memory(row) for row in step.rows])
      missing = missing and len({row.replay for row in step.rows}) < 2
    epoch += 1
    missing = missing and epoch < MOST_EPOCHS
  return found


def in_memory(row: Row) -> Row:
  """Returns a row with arrays of its own; those of raw text lie in a file that is only read."""
  own: dict[str, Any] = {
    name: np.array(getattr(row, name)) for name in ('tokens', 'targets', 'wanted')
  }
  return dataclasses.replace(row, **own)


def lesson(
  parts: Experiment, plan: TaskPlan, task: int, batch_size: int, count: int, **more: Any
) -> Lesson:
  """Returns at least the first `count` steps of a task; arguments as in `composed`.

  Args:
    **more: the other fields of `Lesson`.
  """
  steps = composed(parts, plan, task, batch_size, count)
  return Lesson(parts, plan, task, batch_size, steps, **{'longest': longest_row(parts), **more})
