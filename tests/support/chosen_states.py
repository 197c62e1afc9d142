"""A closed-form head whose state is chosen, after three tasks, and what should be chosen."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from oracles import solvers

from jcl import methods
from jcl.backbones import heads
from jcl.backbones.decoder import decoder
from jcl.config import TrainConfig
from jcl.memory import class_sums
from jcl.step import sharding
from jcl.training.hook_tools import HookTools, make_tools
from jcl.types import Memory, Params
from support import rounding, tiny

LAYERS = 3
STATES = rounding.tolerance(64, rounding.layers(LAYERS))  # of the largest entry of a state
DIGITS = 0.5e-4  # scores are told with four digits
POOLINGS = ('last', 'mean')
SHRINKAGE = 0.5  # the condition of the scatter is below the width


class Way(NamedTuple):
  """Devices, those that share a layer, whether layers are sharded and gathered one at a time."""

  devices: int = 1
  tensor: int = 1
  fsdp: bool = False
  by_layers: bool = False


ALONE = Way()
SAME_BITS = (Way(8), Way(8, fsdp=True), Way(8, fsdp=True, by_layers=True))
SHARED = (Way(2, 2), Way(8, 2, True))


def chosen(
  way: Way = ALONE, order: Sequence[int] = (0, 1, 2), dev: bool = True, **fields: object
) -> tuple[Params, Memory, HookTools]:  # fmt: skip
  """Parameters and memory after the tasks in an order, and the tools with what was reported."""
  settings = methods.settings('closed_form')
  for name, value in {'solver': 'lda', 'choose_state': True, **fields}.items():
    setattr(settings, name, value)
  deep = dataclasses.replace(tiny.CONFIG, classes=6, layers=LAYERS, mixed=True, pooling='mean')
  split = sharding.split_of(way.tensor)
  sized = lambda count: dataclasses.replace(deep, vocabulary=count, rows=-(-count // 8) * 8)
  tools = tiny.tools('class', make=lambda count: decoder(sized(count), split), examples=12)
  if not dev:
    tasks = [dataclasses.replace(task, dev=()) for task in tools.stream.tasks]
    tools = dataclasses.replace(tools, stream=dataclasses.replace(tools.stream, tasks=tuple(tasks)))
  if way != ALONE:
    mesh = sharding.make_mesh(way.devices, way.tensor)
    rest = tools.backbone, tools.text, tools.stream, mesh, 0, 8
    tools = make_tools(*rest, train=TrainConfig(fsdp=way.fsdp))
  if way.by_layers:
    tools = dataclasses.replace(tools, device_memory=0)
  tools = dataclasses.replace(tools, membership=tiny.OWN, task_index=2)
  method, params = methods.make(tools.backbone, settings), tools.placed(start(tools))
  memory = method.init(params, tools.stream, tools)
  for index in order:
    task = tools.stream.tasks[index]
    for hook in (method.before_task, method.after_task):
      memory, params = hook(memory, params, task, tools)
      tools.folds.forget()
  return params, memory, tools


def start(tools: HookTools) -> Params:
  """Returns the parameters before the first task."""
  return tiny.params(tools.backbone)


class Score(NamedTuple):
  """Accuracy that a candidate should be said to reach, and how far rounding of states moves it."""

  candidate: tuple[int, bool, str]
  accuracy: float
  margin: float
  rounding: tuple[float, float]


def scores(tools: HookTools, dev: bool) -> list[Score]:
  """Returns the scores of all candidates; each is a model of its own here, its head an oracle's.

  The tolerance of a score is its largest change where every entry of the states moves by about
  `STATES` of the largest one, and half of the last digit told.
  """
  task = tools.stream.tasks[0]
  rows = [tools.text.rows(e)[0] for e in (*task.train, *task.dev)]
  label_N = np.array([row.wanted[0] for row in rows])
  marks = lambda start: np.array([zlib.crc32(row.tokens.tobytes(), start) for row in rows])
  held_N = np.arange(len(rows)) >= len(task.train)
  if not dev:
    held_N = np.isin(np.arange(len(rows)), np.argsort(marks(0))[: len(rows) // 5])
  draws = [solvers.few(marks(start), label_N, held_N, 4) for start in range(16)]
  found, random = [], np.random.default_rng(0)
  for blocks in range(1, LAYERS + 1):
    for mean in (False, True):
      for pooling in POOLINGS:
        x_ND = _states(tools, rows, blocks, mean, pooling)
        score = solvers.score(x_ND, label_N, held_N, draws, 0.1)
        size = STATES * np.abs(x_ND).max()
        moved = np.array([
          solvers.score(
            x_ND + size * random.standard_normal(x_ND.shape), label_N, held_N, draws, 0.1
          )
          for _ in range(8)
        ])  # fmt: skip
        apart = np.abs(moved - score).max(0) + DIGITS
        found.append(Score((blocks, mean, pooling), *score, tuple(apart)))
  return found


def best(found: Sequence[Score]) -> tuple[int, bool, str]:
  """Returns the first candidate of the highest accuracy and, among these, of the widest margin."""
  top = max((one.accuracy, one.margin) for one in found)
  return next(one.candidate for one in found if (one.accuracy, one.margin) == top)


def _states(tools, rows, blocks: int, mean: bool, pooling: str) -> np.ndarray:
  """Returns states [N, D] of models that end after 1 … blocks; 0 blocks are their input."""
  params, found = start(tools), []
  for end in range(0 if mean else blocks, blocks + 1):
    mix = np.zeros((max(end, 1) + 1, 3), np.float32)
    mix[end, heads.POOLINGS.index(pooling)] = 1
    layers = jax.tree.map(lambda x, end=end: x[: max(end, 1)], params['layers'])
    model = {**params, 'layers': layers, 'head': {**params['head'], 'mix': mix}}
    found.append(np.concatenate(tools.map_targets(tools.backbone.hidden, model, rows)))
    tools.folds.forget()
  return np.mean(found, 0, np.float64)


def condition(memory: Memory, shrinkage: float) -> float:
  """Returns the condition of the shrunken scatter that the head was solved from."""
  sums = class_sums.unpacked(memory['sums'])
  count_C, total_PC, gram_PP = (sums[name].sum(0) for name in ('count', 'total', 'gram'))
  seen = count_C > 0
  mean_PK = total_PC[:, seen] / count_C[seen]
  value_P = np.linalg.eigvalsh((gram_PP - (mean_PK * count_C[seen]) @ mean_PK.T) / count_C.sum())
  value_P = (1 - shrinkage) * np.maximum(value_P, 0) + shrinkage * value_P.mean()
  return float(value_P.max() / value_P.min())


def kernel_rounding(of: dict) -> float:
  """Tolerance of a kernel Σ_s⁻¹ μ, as a share of its largest entry: scatter and means both move."""
  return 3 * STATES * of['condition']


@functools.cache
def told(way: Way) -> dict:
  """The choice that is made on some devices, and the kernel of the head."""
  params, memory, tools = chosen(way, shrinkage=SHRINKAGE)
  kernel = np.asarray(params['head']['kernel'], np.float64).tolist()
  return {
    'state': memory['state'], 'kernel': kernel, 'tried': tools.reports['state'][0]['tried'],
    'condition': condition(memory, SHRINKAGE),
  }  # fmt: skip
