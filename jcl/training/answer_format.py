"""How a trained model is asked and how its answers are read, as data that stands beside it."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jcl.backbones.files.companions import ANSWERS, DEFAULT, Companions
from jcl.backbones.tokenizers import SpecialIds
from jcl.errors import UserError, count_of
from jcl.streams.stream import Stream, Task
from jcl.training.experiment import Experiment

if TYPE_CHECKING:
  from jcl.backbones.files import hf

FILE = ANSWERS  # of a model folder
FOLDER = 'model'  # of a workdir: shape, tokenizer and answer format of its model
PLAIN = '{x}{y}'  # template of a model that no task was trained on


@dataclasses.dataclass(frozen=True)
class AnswerFormat:
  """How a model is asked, and how its answers are read.

  Attributes:
    text_format: see `text_formats`.
    template: of a plain row.
    max_length: tokens of a row.
    task_id_given: the model is given the task.
    answer: `generate` or `score`, as `evaluate.answer`.
    longest_answer: tokens of the longest answer, end-of-sequence included.
    tasks: names of the tasks, in order.
    seen: number of tasks that the model has been trained on.
    labels: of each class, as the user wrote it.
    classes: of each class, as the model writes it.
    classes_of: of each task, the indices of its classes.
    special_tokens_in_text: as in `StreamConfig`.
    chat_template: source of the chat template that writes a question; '': `template` does.
    chat_date: that it takes for today; '': it writes none.
  """

  text_format: str = 'plain'
  template: str = PLAIN
  max_length: int = 512
  task_id_given: bool = False
  answer: str = 'generate'
  longest_answer: int = 32
  tasks: tuple[str, ...] = ()
  seen: int = 0
  labels: tuple[str, ...] = ()
  classes: tuple[str, ...] = ()
  classes_of: tuple[tuple[int, ...], ...] = ()
  special_tokens_in_text: str = 'refuse'
  chat_template: str = ''
  chat_date: str = ''

  @classmethod
  def of(cls, parts: Experiment, seen: int) -> 'AnswerFormat':
    """The format of a run that has learned `seen` tasks."""
    stream, text = parts.stream, parts.text
    return cls(
      text.text_format, stream.template, text.max_length, parts.task_id_given,
      parts.config.evaluate.answer, parts.longest_answer, tuple(t.name for t in stream.tasks), seen,
      stream.written_labels, stream.classes, tuple(t.classes for t in stream.tasks),
      text.encoder.policy, text.chat_template, parts.config.stream.chat_date,
    )  # fmt: skip

  @property
  def unfinished(self) -> str:
    """A line that the run has more tasks than the model has learned; empty where it has none."""
    if self.seen >= len(self.tasks):
      return ''
    return (
      f'note: this run is not finished: its model has learned {self.seen} of '
      f'{count_of(len(self.tasks), "task")}; the jcl train or jcl.learn that began it goes on'
    )

  def beside(self, companions: Companions) -> Companions:
    """Returns what goes with a model, with this format and the labels of its classes."""
    answers, labels = dataclasses.asdict(self), tuple(self.labels)
    templates = dict(companions.chat_templates)
    if self.chat_template:  # a named one goes with the model, as its own would
      templates[DEFAULT] = self.chat_template
    return dataclasses.replace(companions, answers=answers, labels=labels, chat_templates=templates)

  def stream(self) -> Stream:
    """The tasks and classes, without examples."""
    last = len(self.tasks) - 1
    tasks = tuple(
      Task(i, name, (), (), (), own, i == last)
      for i, (name, own) in enumerate(zip(self.tasks, self.classes_of, strict=True))
    )
    return Stream('model', tasks, self.classes, self.template, labels=self.labels)


def read_format(file: pathlib.Path) -> AnswerFormat:
  """Reads the answer format of a model folder.

  Raises:
    UserError: the file holds no answer format.
  """
  try:
    values = json.loads(file.read_text('utf-8'))
    known = {field.name: field for field in dataclasses.fields(AnswerFormat)}
    if not isinstance(values, Mapping) or set(values) - set(known):
      raise ValueError('fields')
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    values['classes_of'] = tuple(map(tuple, values.get('classes_of', ())))
    found = AnswerFormat(**values)
    _check_format(found)
    return found
  except (ValueError, TypeError, KeyError, RecursionError, UnicodeDecodeError):
    raise UserError(f'{file} is not the answer format of a model; export the model again') from None


def _check_format(found: AnswerFormat) -> None:
  """Raises a ValueError where the fields of a format do not go together."""
  texts = (
    *found.tasks, *found.labels, *found.classes, found.template, found.text_format,
    found.special_tokens_in_text, found.chat_template, found.chat_date,
  )  # fmt: skip
  numbers = (found.max_length, found.longest_answer, found.seen)
  counts = len(found.labels) == len(found.classes) and len(found.classes_of) == len(found.tasks)
  inside = all(0 <= c < len(found.classes) for own in found.classes_of for c in own)
  if not (counts and inside and all(isinstance(x, str) for x in texts)):
    raise ValueError('fields')
  if found.chat_date:
    datetime.date.fromisoformat(found.chat_date)
  if not all(isinstance(x, int) and 0 <= x < 2**31 for x in numbers):
    raise ValueError('numbers')


def shape_of(parts: Experiment) -> 'hf.Loaded':
  """Returns the model of a run without its parameters."""
  from jcl.backbones.files import hf  # readers of files that a run from scratch does not need

  special = SpecialIds(parts.text.special.bos, parts.text.special.eos, parts.text.special.pad)
  return hf.Loaded(parts.decoder_config, None, parts.text.tokenizer, special, parts.companions)


def describe(folder: pathlib.Path, parts: Experiment) -> None:
  """Writes shape, tokenizer and answer format of a run's model into its workdir, once.

  With its snapshots they are all that `load_model` needs: no data, no model that it started from.
  """
  if (folder / FOLDER).is_dir():
    return
  from jcl.backbones.files import hf

  loaded = shape_of(parts)
  companions = AnswerFormat.of(parts, 0).beside(loaded.companions)
  hf.save(folder / FOLDER, loaded._replace(companions=companions))
