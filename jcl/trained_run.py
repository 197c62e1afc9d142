"""A trained run, opened again with its data to be evaluated and sampled."""

import dataclasses
import pathlib
import sys
from collections.abc import Collection, Iterator

import numpy as np

from jcl import methods
from jcl.batching.batch_reader import LAMOL_FORMATS
from jcl.config import Config
from jcl.errors import UserError
from jcl.model import Model, of_run
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.storage import console
from jcl.storage.checkpoint import Snapshots
from jcl.streams.stream import Task
from jcl.training import evaluate as evaluation
from jcl.training import inputs
from jcl.training.answer_format import AnswerFormat
from jcl.training.experiment import assemble
from jcl.training.fold_bars import FoldBars
from jcl.training.run_state import Run
from jcl.types import Params

TOP_K = 20  # candidates a token of a text that goes on from a prompt


class TrainedRun:
  """The newest snapshot of a trained run, to be evaluated and sampled.

  Args:
    config: of the run.
    workdir: folder of its snapshots.
    allowed: words of inputs that may differ from what the run was trained on.

  Raises:
    UserError: there is no snapshot, or the data or the tokenizer is another than the run's.
  """

  @computing
  def __init__(self, config: Config, workdir: pathlib.Path, allowed: Collection[str] = ()):
    alone = dataclasses.replace(config, train=dataclasses.replace(config.train, tensor=1))
    self.parts = assemble(alone, weights=False, old=True)  # the snapshot has the parameters
    inputs.check(workdir, self.parts.inputs, config, allowed)
    found = None
    if (workdir / 'checkpoints').is_dir():  # else opening it would make it
      snapshots = Snapshots(workdir, write=False)
      found = snapshots.latest()
      snapshots.close()
    if found is None:
      raise UserError(f'{workdir} has no snapshot yet; train it first with jcl train')
    for line in snapshots.messages:
      console.show(line, sys.stderr)
    known = {field.name for field in dataclasses.fields(Run)}
    self.now = Run(**{name: value for name, value in found.items() if name in known})
    learned = max(len(self.now.record['matrix']) - 1, 0)
    if line := AnswerFormat.of(self.parts, learned).unfinished:
      console.show(line, sys.stderr)
    self.tools = self.parts.tools.at(max(len(self.now.record['matrix']) - 2, 0))

  @computing
  def params(self, task: Task | None) -> Params:
    """Returns the parameters that answer for a task; the task counts only if it is given."""
    given = task if self.parts.task_id_given else None
    params = self.parts.method.params_for(self.now.memory, self.now.params, given)
    return sharding.place(params, self.tools.mesh)

  def _shown(self, what: str) -> FoldBars:
    """Returns the context in which folds are shown, as what they work on."""
    return FoldBars(self.tools.folds, lambda name: f'{what}: {name}')

  @property
  def model(self) -> Model:
    """The model of the snapshot, which answers and is saved."""
    return of_run(self.parts, self.now)

  @computing
  def scores(
    self, split: str
  ) -> Iterator[tuple[Task, evaluation.Score | evaluation.LogPerplexity | None]]:
    """Yields every task with its score on a split, None if the split is empty."""
    how, longest = self.parts.config.evaluate.answer, self.parts.longest_answer
    for task in self.parts.stream.tasks:
      examples = getattr(task, split)
      if examples:
        params = self.params(task)
        with self._shown(task.name):
          score = evaluation.score(params, task, examples, self.tools, how, longest)
        yield task, score
      else:
        yield task, None

  @computing
  def continued(
    self, prompt: str, count: int, temperature: float, seed: int, most: int
  ) -> list[str]:
    """Returns continuations of a prompt, sampled from the `TOP_K` likeliest tokens.

    Args:
      prompt: text to continue; empty: the beginning of a document.
      count: number of continuations.
      temperature: of sampling.
      seed: of the continuations.
      most: tokens of a continuation at most.

    Raises:
      UserError: the prompt contains a special token.
    """
    text = self.tools.text
    ids = [*text.start, *text.encode(prompt, '--prompt')]
    key = self.tools.key('shown', seed)
    with self._shown('continuations'):
      ids_RN = self.tools.sample(
        self.params(None), [ids] * count, key, k=TOP_K, temperature=temperature, max_new=most
      )
    return [text.decode(row) for row in ids_RN.tolist()]

  @computing
  def samples(
    self, name: str, count: int, temperature: float, seed: int
  ) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (task name, [count, N] ids drawn from its generation token) for one task, or for all.

    Raises:
      UserError: the run's method generates nothing, or there is no task of that name.
    """
    text = self.tools.text
    if text.text_format not in LAMOL_FORMATS:
      raise UserError('the method of this run trains no generation; use lamol')
    own = methods.parts(self.parts.config.method)
    method, settings = next((n, part) for n, part in own.items() if hasattr(part, 'top_k'))
    memory = self.now.memory.get(method, self.now.memory)
    tasks = [t for t in self.parts.stream.tasks if name in ('', t.name)]
    if not tasks:
      known = ', '.join(t.name for t in self.parts.stream.tasks)
      raise UserError(f'--task: no task is called {name!r}; there are {known}')
    for task in tasks if text.text_format == 'lamol_task' else tasks[:1]:
      prompt = [*text.start, text.generation_token(task.index)]
      with self._shown(task.name):
        ids_RN = self.tools.sample(
          self.params(None), [prompt] * count, self.tools.key('shown', task.index, seed),
          k=settings.top_k, temperature=temperature or getattr(settings, 'temperature', 1.0),
          max_new=memory['longest'],
        )  # fmt: skip
      yield task.name if text.text_format == 'lamol_task' else 'all tasks', ids_RN
