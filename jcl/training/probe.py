"""General ability before and after every task: a held-out text, and how far the model has moved.

    nats  mean over the tokens of a text of −log p(token | tokens before it in its block)
    kl    mean over the same tokens of KL(first model ‖ model), nats per token

and KL on the prompts of the task just learned and of the task to come, whose answers are left out.
The text is `evaluate.probe`, which no task trains on.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.batching.batch import Batch, Row
from jcl.batching.text_formats import Text
from jcl.config import Config
from jcl.errors import UserError
from jcl.memory import teacher
from jcl.storage import paths
from jcl.streams.escaping import quoted
from jcl.streams.files import read_text
from jcl.streams.raw import normalized_text
from jcl.streams.stream import Example, Stream, Task
from jcl.training.general_text import corpus_text
from jcl.training.hook_tools import HookTools
from jcl.types import Json, Params

PROMPTS = 64  # of a task, the first of its test split
TOGETHER = 13  # words in a row that a text has only from its source


def read_probe(config: Config, text: Text, stream: Stream) -> tuple[Row, ...]:
  """Returns the blocks of the probe text; none without `evaluate.probe`.

  Args:
    config: of the run.
    text: its tokenizer.
    stream: its tasks, as texts.

  Raises:
    UserError: the text cannot be read, has a single token, or stands in a training split or in the
      method's corpus.
  """
  path = '' if config.backbone.head else config.evaluate.probe  # a head predicts no text
  if not path:
    return ()
  field = f'evaluate.probe {path}'
  content = read_text(paths.local(path, 'evaluate.probe'), field, 'give it some text').strip()
  check_held_out(content, field, stream)
  general, corpus = corpus_text(config)
  if not set(_runs(content)).isdisjoint(_runs(general)):
    raise UserError(f'{field}: it has words of {corpus}: give text that nothing trains on')
  ids = text.encode(content, field)
  size = text.max_length - len(text.start)
  blocks = (ids[first : first + size] for first in range(0, len(ids), size))
  rows = tuple(predicted([*text.start, *block]) for block in blocks)
  if not sum(len(row.targets) for row in rows):
    raise UserError(f'{field}: a single token, so that nothing is predicted: give more text')
  return rows


def predicted(ids: Sequence[int]) -> Row:
  """Returns the row of a text in which every token but the first is predicted."""
  tokens = np.asarray(ids, np.int32)
  return Row(tokens, np.arange(len(tokens) - 1), tokens[1:], 0, -1)


def check_held_out(content: str, field: str, stream: Stream) -> None:
  """Refuses a probe text with a line or `TOGETHER` words in a row that a training text has.

  Args:
    content: the probe text.
    field: its name in the message.
    stream: tasks as texts.

  Raises:
    UserError: names the training text.
  """
  lines = {normalized_text(line) for line in content.split('\n')} - {''}
  runs = set(_runs(content))
  for task in stream.tasks:
    for example in task.train:
      whole = normalized_text(example.text)
      if whole in lines or not runs.isdisjoint(_runs(f'{example.text} {example.answer}')):
        raise UserError(
          f'{field}: it has words of the training text {quoted(example.text)} of task '
          f'{task.name!r} ({example.called}): give text that nothing trains on'
        )


def _runs(text: str) -> Iterator[tuple[str, ...]]:
  """Yields every `TOGETHER` words in a row."""
  words = normalized_text(text).split()
  return (tuple(words[i : i + TOGETHER]) for i in range(len(words) - TOGETHER + 1))


@functools.cache
def _compared(backbone: Backbone) -> Callable[[dict[str, Params], Batch], jax.Array]:
  """(models, batch) -> [M, 2], nats and KL; one function a backbone, so that it compiles once."""
  drift = teacher.drift(backbone)

  def probe(models: dict[str, Params], batch: Batch) -> jax.Array:
    found = drift(models, batch)
    return jnp.stack([found['nats'], found['kl']], -1)

  return probe


def measure(
  params: Params, base: Params, rows: Sequence[Row], done: Task | None, coming: Task | None,
  tools: HookTools,
) -> Json:  # fmt: skip
  """Returns the line of `results.json` for one moment of a run.

  Args:
    params: the model that answers.
    base: the model that the run started from.
    rows: of the probe text.
    done: the task just learned; None: before any training.
    coming: the next task; None after the last one.
    tools: of the run.
  """
  models, fn = {'now': params, 'base': base}, _compared(tools.backbone)

  def means(name: str, some: Sequence[Row]) -> np.ndarray:
    found = tools.map_targets(fn, models, some, name=name)
    return np.concatenate(found).astype(np.float64).mean(0)

  nats, kl = means('probe', rows)
  line = {'task': done.name if done else None, 'nats': float(nats), 'kl': float(kl)}
  for key, task in (('kl_prompts', done), ('kl_next_prompts', coming)):
    prompts = [] if task is None else prompt_rows(task.test[:PROMPTS], tools.text)
    line[key] = float(means(key, prompts)[1]) if prompts else None
  return line


def prompt_rows(examples: Sequence[Example], text: Text) -> list[Row]:
  """Returns the rows of the prompts of some examples; of raw text none, which has no prompts."""
  if text.text_format == 'packed':
    return []
  ids = (text.prompt(example) for example in examples)
  return [predicted(prompt) for prompt in ids if len(prompt) > 1]
