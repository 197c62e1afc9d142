"""Torch loops as contenders: one trainer, with the objective of the plain or of the tuned loop.

Both loops get the weights that jcl exports, read by transformers, and the rows that jcl makes.
Their optimiser is AdamW of torch with the settings of the run, on the gradient clipped by its norm.
The modules of this folder whose names begin with `torch` are all of jcl that imports torch.
"""

import copy
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import torch

from jcl.batching.batch import Row
from jcl.benchmarks.setting import Setting
from jcl.benchmarks.torch_model import adamw, device_like, load, precision, wait
from jcl.benchmarks.torch_plain import Plain
from jcl.benchmarks.torch_tuned import Tuned
from jcl.benchmarks.torch_writing import Writer
from jcl.benchmarks.work import (
  MOMENTS,
  MOVED,
  Contender,
  Importance,
  Learner,
  Lesson,
  Prompts,
  Shown,
)
from jcl.training.experiment import Experiment

PLAIN_ROWS = 8  # prompts that the published code continues together
CHOOSING = 3  # steps by which it is decided whether compiling helps


class Objective(Protocol):
  """The loss of one loop.

  Attributes:
    caches_teacher: whether `teach` takes the teacher's states before the first step.
  """

  caches_teacher: bool

  def teach(self, teacher: torch.nn.Module, rows: Sequence[Row]) -> None:
    """Takes what the loss needs of the teacher at the targets of `rows`."""

  def loss(
    self, model: torch.nn.Module, teacher: torch.nn.Module | None, rows: Sequence[Row]
  ) -> torch.Tensor:
    """Returns the objective of one step, a scalar with its graph."""

  def nats(self, model: torch.nn.Module, rows: Sequence[Row]) -> torch.Tensor:
    """Returns the mean cross-entropy of all targets of some rows, a scalar with its graph."""

  def compile(self, model: torch.nn.Module) -> None:
    """Compiles what the loss calls."""

  def uncompile(self) -> None:
    """Goes back to eager."""


class TorchLearner:
  """A torch loop on a lesson.

  Args:
    lesson: what is learned.
    model: the teacher, from which the student starts; it is not changed.
    objective: of the loop.
    tuned: whether AdamW is fused and the objective may be compiled where that helps.
    say: takes a line about what was chosen.
  """

  def __init__(
    self, lesson: Lesson, model: torch.nn.Module, objective: Objective, tuned: bool,
    compiled: bool, say: Callable[[str], None],
  ):  # fmt: skip
    self._lesson, self._origin, self._objective = lesson, model, objective
    self._tuned, self._compiled, self._say = tuned, compiled, say
    self._teacher = model if lesson.plan.old else None
    self._dtype, self._place = lesson.parts.config.backbone.dtype, model.device
    self._next: Iterator[Sequence[Row]] = iter(())
    self._begin(1.0)

  def _begin(self, times: float) -> None:
    """Makes the student anew, its weights those of the teacher times a number."""
    self._model = copy.deepcopy(self._origin)
    self._model.requires_grad_(True)
    if times != 1:
      with torch.no_grad():
        for parameter in self._model.parameters():
          parameter.mul_(times)
    train = self._lesson.parts.config.train
    self._optimizer = adamw(self._model, train.weight_decay, train.beta2, fused=self._tuned)

  def teach(self) -> float:
    """Takes the teacher's states at the targets of all old rows, if this loop keeps them -> 1."""
    lesson = self._lesson
    rows = [
      row
      for e in lesson.plan.old
      for row in lesson.parts.text.rows(lesson.parts.tools.example(e), True)
    ]
    with torch.no_grad(), precision(self._dtype, self._place):
      self._objective.teach(self._origin, rows)
    wait()
    return 1.0

  def _step(self, rows: Sequence[Row], apply: bool = True) -> Shown:
    """Takes one step and reads loss and gradient norm, as any loop does that logs them."""
    clip = self._lesson.parts.config.train.clip_norm
    with precision(self._dtype, self._place):
      loss = self._objective.loss(self._model, self._teacher, rows)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), clip or float('inf'))
    if apply:
      self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return Shown(loss.item(), norm.item())

  def show(self) -> Shown:
    """Returns objective and gradient norm of step `Lesson.shown`, the student's weights `MOVED`."""
    self._begin(MOVED)
    found = self._step(self._lesson.steps[self._lesson.shown], apply=False)
    self._begin(1.0)
    return found

  def warm(self) -> None:
    """Chooses between eager and compiled by time, and starts at the first step."""
    steps = self._lesson.steps
    some = [steps[i % len(steps)] for i in range(CHOOSING)]
    seconds = {'eager': self._seconds(some)}
    if self._tuned and self._compiled:
      try:
        self._objective.compile(self._model)
        for rows in steps[: 2 * CHOOSING]:  # dynamic shapes are found in the first of them
          self._step(rows)
        seconds['compiled'] = self._seconds(some)
      except Exception as error:  # whatever a compiler raises
        self._optimizer.zero_grad(set_to_none=True)
        self._say(f'torch.compile failed and is not used: {" ".join(str(error).split())[:160]}')
      if min(seconds, key=lambda k: seconds[k]) == 'eager':
        self._objective.uncompile()
      chosen = ', '.join(f'{k} {1e3 * s:.0f} ms' for k, s in seconds.items())
      self._say(f'a step {chosen}: the faster is timed')
    self._next = iter(steps)

  def _seconds(self, steps: Sequence[Sequence[Row]]) -> float:
    """Returns the seconds of a step, after one that does not count."""
    self._step(steps[0])
    wait()
    start = time.perf_counter()
    for rows in steps:
      self._step(rows)
    wait()
    return (time.perf_counter() - start) / len(steps)

  def train(self, steps: int) -> float:
    """Takes the next steps and returns their number.

    Args:
      steps: their number.
    """
    for _ in range(steps):
      self._step(next(self._next))
    wait()
    return float(steps)

  def close(self) -> None:
    """Frees the student."""
    del self._model, self._optimizer
    self._objective.uncompile()


def fisher(
  model: torch.nn.Module, objective: Objective, work: Importance, tuned: bool, dtype: str
) -> float:
  """Returns the sum over all parameters of the mean squared gradient, an example at a time.

  Args:
    model: whose gradients they are.
    objective: of the loop.
    work: the examples.
    tuned: whether all parameters are added up by one call.
    dtype: of the computation.
  """
  parameters = list(model.requires_grad_(True).parameters())
  sums = [torch.zeros_like(p) for p in parameters]
  for rows in work.rows:
    with precision(dtype, model.device):
      nats = objective.nats(model, rows)
    gradients = torch.autograd.grad(nats, parameters)
    if tuned:
      torch._foreach_addcmul_(sums, gradients, gradients)
    else:
      for total, gradient in zip(sums, gradients, strict=True):
        total += gradient**2
  wait()
  model.requires_grad_(False)
  return sum(float(total.double().sum()) for total in sums) / len(work.rows)


def store(model: torch.nn.Module, folder: pathlib.Path) -> float:
  """Writes the model and two moments of every parameter by `torch.save` -> 1."""
  state = {name: p.detach() for name, p in model.named_parameters()}
  first, second = ({k: f(v) for k, v in state.items()} for f in MOMENTS)
  torch.save({'model': state, 'first': first, 'second': second}, folder / 'state.pt')
  return 1.0


def restore(place: torch.device, folder: pathlib.Path) -> float:
  """Reads them back to the device -> 1."""
  torch.load(folder / 'state.pt', map_location=place, weights_only=True)
  wait()
  return 1.0


def contender(name: str, setting: Setting) -> Contender:
  """Returns a torch loop as a contender.

  Args:
    name: `torch` or `torch-tuned`.
    setting: of the benchmark.
  """
  tuned, notes, text = name == 'torch-tuned', [], setting.parts.text
  models: dict[int, torch.nn.Module] = {}
  request, place = setting.request, device_like(jax.default_backend())
  dtype = request.dtype
  say = lambda line: notes.append(f'{name}: {line}')
  writer = Writer(text.eos, text.pad, dtype, say, rows=PLAIN_ROWS)
  if tuned:
    writer = Writer(
      text.eos, text.pad, dtype, say, default_rows=request.evaluate_rows, by_length=True,
      compiled=request.compiled and place.type == 'cuda',
    )  # fmt: skip

  def model(parts: Experiment) -> torch.nn.Module:
    if id(parts) not in models:
      models[id(parts)] = load(setting.exported(parts), place)
    return models[id(parts)]

  def objective(parts: Experiment, work: Lesson | Importance) -> Objective:
    weights, temperature = {}, 1.0
    if isinstance(work, Lesson):
      weights, temperature = dict(work.plan.weights), work.temperature
    rest = weights, temperature, parts.backbone.outputs, place
    return Tuned(*rest) if tuned else Plain(work.longest, *rest)

  def learner(lesson: Lesson) -> Learner:
    loss = objective(lesson.parts, lesson)
    return TorchLearner(lesson, model(lesson.parts), loss, tuned, request.compiled, say)

  def write(prompts: Prompts) -> list[list[int]]:
    return writer(model(setting.parts), prompts)

  def squares(work: Importance) -> float:
    loss = objective(setting.parts, work)
    return fisher(model(setting.parts), loss, work, tuned, dtype)

  return Contender(
    name, learner, write, squares,
    store=lambda folder: store(model(setting.parts), folder),
    restore=lambda folder: restore(place, folder),
    caches_teacher=tuned, fixed_rows=None if tuned else PLAIN_ROWS, notes=notes,
  )  # fmt: skip
