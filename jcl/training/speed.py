"""How fast training is: seconds a step, tokens a second, share of the devices' peak."""

import collections
import time
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.stages import Wrapped

from jcl.step import flops, sharding
from jcl.step.numerics import computing
from jcl.step.peaks import Peak, peak
from jcl.training.batch_loader import LoadedBatch
from jcl.training.experiment import Experiment
from jcl.training.run_output import RunOutput
from jcl.training.step_inputs import StepInputs
from jcl.types import Json


class Speed:
  """Measures the steps of a run, and says how fast they are every `train.speed_every` seconds.

  Seconds are those of the clock for training: without compilation and evaluation, with waiting for
  data. The operations of a step are counted once for each shape of a batch, by another thread, and
  only where the peak of the devices is known.

  Args:
    parts: of the run.
    output: whose clock and record count the seconds.
    step: the train step.
  """

  def __init__(self, parts: Experiment, output: RunOutput, step: Wrapped):
    self._parts, self._output, self._step = parts, output, step
    self._every = parts.config.train.speed_every
    self._devices = parts.tools.mesh.devices.flat
    self._peak: Peak | None = None
    self._counts: dict[Hashable, Future[float]] = {}
    self._pool: ThreadPoolExecutor | None = None
    self.begin()

  def begin(self) -> None:
    """Measures anew from now on, at the beginning of a task."""
    self._said, self._seconds = time.monotonic(), self._training_seconds()
    self._steps: collections.Counter = collections.Counter()
    self._tokens = 0

  def dispatching(self, inputs: StepInputs, rate: float, loaded: LoadedBatch) -> None:
    """Has the operations of a step counted, unless those of its shape are."""
    if not self._every:
      return
    if self._peak is None:
      self._peak = peak(self._devices[0], self._parts.config.backbone.dtype)
    key = loaded.shape
    if self._peak.rate is None or key in self._counts:
      return
    if self._pool is None:
      self._pool = ThreadPoolExecutor(1, 'jcl-flops')
    state, fixed, weights, groups = inputs
    given = state, fixed, weights, np.float32(rate), loaded.batch, groups
    shaped = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), given)
    self._counts[key] = self._pool.submit(self._count, *shaped)

  @computing
  def _count(self, *arguments: object) -> float:
    """Returns the operations of a step on each device."""
    found = flops.count(self._step, *arguments)
    mesh, fsdp = self._parts.tools.mesh, self._parts.config.train.fsdp
    shards = mesh.size if fsdp else sharding.parts_of(mesh)
    return found.mapped + found.whole / shards

  def after(self, loaded: LoadedBatch) -> Json | None:
    """Counts a step that is done; returns what is to be said of the steps since, if it is time."""
    if not self._every:
      return None
    self._steps[loaded.shape] += 1
    self._tokens += loaded.tokens
    if not loaded.last and time.monotonic() - self._said < self._every:
      return None
    seconds = max(self._training_seconds() - self._seconds, 1e-9)
    line = {
      'seconds_per_step': seconds / self._steps.total(),
      'tokens_per_second': self._tokens / seconds,
      'mfu': self._share(seconds),
      'peak': 'unknown' if self._peak is None else self._peak.source,
    }
    self.begin()
    return line

  def _share(self, seconds: float) -> float | None:
    """Returns the share of the devices' peak in the steps since; None: not known, or not yet."""
    counts = [(n, self._counts.get(key)) for key, n in self._steps.items()]
    if self._peak is None or self._peak.rate is None:
      return None
    if not all(found is not None and found.done() for _, found in counts):
      return None
    operations = sum(n * found.result() for n, found in counts if found is not None)
    return operations / (seconds * self._peak.rate)

  def _training_seconds(self) -> float:
    """Returns the seconds of training of the whole run."""
    self._output.clock.settle()
    return self._output.spent('train')

  def close(self) -> None:
    """Counts nothing more."""
    if self._pool is not None:
      self._pool.shutdown(wait=False, cancel_futures=True)
      self._pool = None
