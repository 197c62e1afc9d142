"""A run that has been trained, opened again to be evaluated and sampled."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from jcl import methods
from jcl.batching.text_formats import LAMOL_FORMATS
from jcl.config import Config
from jcl.errors import UserError
from jcl.step import sharding
from jcl.storage.checkpoint import Snapshots
from jcl.streams.stream import Task
from jcl.training import evaluate as evaluation
from jcl.training.experiment import assemble
from jcl.training.run_state import Run
from jcl.types import Params, WeightDtype

TOP_K = 20  # candidates a token of a text that goes on from a prompt


class TrainedRun:
  """A run that has been trained: its newest snapshot, to be evaluated and sampled.

  Args:
    config: of the run.
    workdir: that it left its snapshots in.

  Raises:
    UserError: there is no snapshot.
  """

  def __init__(self, config: Config, workdir: pathlib.Path):
    self.parts = assemble(config, weights=False)  # the snapshot has the parameters
    found = None
    if (workdir / 'checkpoints').is_dir():  # else opening it would make it
      snapshots = Snapshots(workdir, write=False)
      found = snapshots.latest()
      snapshots.close()
    if found is None:
      raise UserError(f'{workdir} has no snapshot yet; train it first with launch/train.py')
    for line in snapshots.messages:
      print(line, file=sys.stderr)
    known = {field.name for field in dataclasses.fields(Run)}
    self.now = Run(**{name: value for name, value in found.items() if name in known})
    self.tools = self.parts.tools.at(max(len(self.now.record['matrix']) - 2, 0))

  def params(self, task: Task | None) -> Params:
    """The parameters for a task, or for none where it is not told."""
    task_id_given = task if self.parts.task_id_given else None
    params = self.parts.method.params_for(self.now.memory, self.now.params, task_id_given)
    return sharding.place(params, self.tools.mesh)

  def export(self, out: pathlib.Path, name: str, kind: str, dtype: WeightDtype = 'float32') -> None:
    """Writes the model for a task, or for none where it is not told.

    Args:
      out: a new folder.
      name: of the task; empty: it is not told.
      kind: `hf`, a whole model, its adapter merged; `peft`, the adapter alone.
      dtype: of a whole model's weights.

    Raises:
      UserError: there is no task of that name, no adapter, or `out` is in use.
    """
    from jcl.backbones import lora
    from jcl.backbones.files import hf, peft
    from jcl.backbones.layers import depth

    tasks = {t.name: t for t in self.parts.stream.tasks}
    if name and name not in tasks:
      raise UserError(f'--task: no task is called {name!r}; there are {", ".join(tasks)}')
    params = self.parts.method.params_for(self.now.memory, self.now.params, tasks.get(name))
    path = self.parts.config.backbone.path
    config = dataclasses.replace(
      self.parts.decoder_config, layers=depth(params)
    )  # it may have grown
    if kind == 'peft':
      if 'lora' not in params:
        raise UserError('--format=peft: the run has no adapter; use --format=hf')
      peft.write(out, config, params['lora'], path)
      return
    text, source = self.tools.text, pathlib.Path(path).expanduser()
    loaded = hf.Loaded(config, lora.merged(params), text.tokenizer, text.special)
    hf.save(out, loaded, dtype=dtype, source=source if path and source.is_dir() else None)

  def scores(
    self, split: str
  ) -> Iterator[tuple[Task, evaluation.Score | evaluation.LogPerplexity | None]]:
    """(task, its score on a split, or None where the split is empty) for every task."""
    how, longest = self.parts.config.evaluate.answer, self.parts.longest_answer
    for task in self.parts.stream.tasks:
      examples = getattr(task, split)
      if examples:
        params = self.params(task)
        yield task, evaluation.score(params, task, examples, self.tools, how, longest)
      else:
        yield task, None

  def continued(
    self, prompt: str, count: int, temperature: float, seed: int, most: int
  ) -> list[str]:
    """How a model of raw text goes on from a prompt, by top-k sampling with k = `TOP_K`.

    Args:
      prompt: that it goes on from; empty: the beginning of a document.
      count: texts.
      temperature: of sampling.
      seed: of the texts.
      most: tokens of a text at most; it ends before where the document does.

    Raises:
      UserError: the prompt contains a special token.
    """
    text = self.tools.text
    ids = [*text.start, *text.encode(prompt, '--prompt')]
    key = self.tools.key('shown', seed)
    ids_RN = self.tools.sample(
      self.params(None), [ids] * count, key, k=TOP_K, temperature=temperature, max_new=most
    )
    return [text.decode(row) for row in ids_RN.tolist()]

  def samples(
    self, name: str, count: int, temperature: float, seed: int
  ) -> Iterator[tuple[str, np.ndarray]]:
    """(task name, [count, N] ids drawn from its generation token) for one task, or for all.

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
      ids_RN = self.tools.sample(
        self.params(None), [prompt] * count, self.tools.key('shown', task.index, seed),
        k=settings.top_k, temperature=temperature or getattr(settings, 'temperature', 1.0),
        max_new=memory['longest'],
      )  # fmt: skip
      yield task.name if text.text_format == 'lamol_task' else 'all tasks', ids_RN
