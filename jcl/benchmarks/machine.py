"""The machine and what it can give: versions, clocks, and the rate of the model's own matmuls."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jcl import distributed
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.model_config import ModelConfig
from jcl.batching.batch import Row
from jcl.step.sharding import make_mesh
from jcl.training.experiment import Experiment
from jcl.types import Json, Params

TURNS = 5  # of each matmul, whose median counts
CPUS = pathlib.Path('/proc/cpuinfo')
PACKAGES = ('jcl', 'jax', 'jaxlib', 'torch', 'transformers', 'numpy')


def described() -> Json:
  """Returns versions, processor, cores, threads and devices."""
  versions = {}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  import jcl

  return {
    **versions,
    'jcl': jcl.__version__,
    'python': platform.python_version(),
    'processor': _of_cpu('model name') or platform.processor() or platform.machine(),
    'threads': {k: v for k, v in os.environ.items() if k.endswith('_NUM_THREADS')},
    **distributed.machine(make_mesh()),
  }


def clocks() -> Json:
  """Returns the date, the load of the machine, and the clock of its cores in MHz, as of now."""
  speeds = [float(line.split(':')[1]) for line in _cpu_lines() if line.startswith('cpu MHz')]
  load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
  return {
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'load': None if load is None else round(load, 2),
    'mhz': [round(x) for x in speeds],
  }


def _cpu_lines() -> list[str]:
  """Returns the lines of /proc/cpuinfo; none where there is no such file."""
  return CPUS.read_text().splitlines() if CPUS.is_file() else []


def _of_cpu(field: str) -> str:
  """Returns a field of the first processor; empty: there is none."""
  found = [line.partition(':')[2].strip() for line in _cpu_lines() if line.startswith(field)]
  return found[0] if found else ''


def torch_threads() -> Json:
  """Returns what torch says of its threads and devices."""
  import torch

  cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
  return {'torch_threads': torch.get_num_threads(), 'torch_device': cuda or 'cpu'}


def matmul_rates(shape: ModelConfig, tokens: int) -> dict[str, float]:
  """Measures the matmuls of a model -> {M x K x N: operations a second}, and `all` together.

  A rate counts 2·M·K·N operations a product. `all` is all operations of a layer and of the
  vocabulary's projection divided by all their seconds, each as often as the model has it.

  Args:
    shape: of the model.
    tokens: M, tokens of a step.
  """
  assert isinstance(shape, DecoderConfig), 'LAMOL writes'
  inner = shape.heads * shape.head_dim
  kv = 2 * shape.kv_heads * shape.head_dim
  products: dict[tuple[int, int], int] = {}
  ups = 2 if shape.gated else 1
  for k, n, times in (
    (shape.width, inner, shape.layers), (shape.width, kv, shape.layers),
    (inner, shape.width, shape.layers), (shape.width, shape.feed_forward, ups * shape.layers),
    (shape.feed_forward, shape.width, shape.layers), (shape.width, shape.rows, 1),
  ):  # fmt: skip
    products[k, n] = products.get((k, n), 0) + times
  rates, operations, seconds = {}, 0.0, 0.0
  for (k, n), times in products.items():
    took = _matmul_seconds(tokens, k, n, shape.dtype)
    rates[f'{tokens} x {k} x {n}'] = 2 * tokens * k * n / took
    operations, seconds = operations + times * 2 * tokens * k * n, seconds + times * took
  return {**rates, 'all': operations / seconds}


def _matmul_seconds(m: int, k: int, n: int, dtype: str) -> float:
  """Returns the median seconds of a product [m, k] x [k, n]."""
  left, right = jnp.ones((m, k), dtype), jnp.ones((k, n), dtype)
  product = jax.jit(jnp.matmul)
  product(left, right).block_until_ready()
  found = []
  for _ in range(TURNS):
    start = time.perf_counter()
    product(left, right).block_until_ready()
    found.append(time.perf_counter() - start)
  return statistics.median(found)


def step_operations(parts: Experiment, params: Params, rows: Sequence[Row]) -> float:
  """Returns the operations of a training step that its real tokens need, forward and backward.

  2 operations a weight and token forward and 4 backward; scores of attention likewise, over the
  tokens that a token sees; the vocabulary's projection at targets alone, once more for the
  teacher's states of old rows.

  Args:
    parts: of the run.
    params: of the model.
    rows: of the step.
  """
  shape: Any = parts.decoder_config
  matrices = sum(x.size for x in jax.tree.leaves(params['layers']) if x.ndim > 2)
  lengths = [len(row.tokens) for row in rows]
  seen = sum(t * (t + 1) / 2 for t in lengths)
  targets = sum(len(row.targets) for row in rows)
  old = sum(len(row.targets) for row in rows if row.replay)
  scores = 2 * 2 * seen * shape.layers * shape.heads * shape.head_dim
  project = 2 * shape.width * parts.backbone.outputs
  return 3 * (2 * matrices * sum(lengths) + scores + project * targets) + project * old
