"""What a run reads, as digests: a run that goes on must read the same.

`inputs.json` in a workdir holds the digests of the stream's splits, of the chat template, of the
tokenizer, of the base weights and of an external teacher; `inputs.rows` those of the single rows,
by which a difference is named. They depend on content alone: a folder that was moved, linked,
touched or fetched anew has the same. Rows are hashed as they are read, weights once they are in
memory, on all cores: no file is read twice for it.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from jcl import distributed
from jcl.backbones.files.stored import blocks
from jcl.batching.batch import Row
from jcl.batching.packed_text import Blocks
from jcl.config import Config
from jcl.errors import UserError, count_of
from jcl.storage import paths
from jcl.storage.atomic import write_atomically, write_json
from jcl.storage.encoding import leaves_by_path
from jcl.streams.digests import BYTES, difference, row_digests
from jcl.streams.raw import SPLITS
from jcl.streams.stream import Example, Stream
from jcl.training.model_shape import changed_fields
from jcl.types import Json, Params

FILE, ROWS = 'inputs.json', 'inputs.rows'
SHOWN = 3  # splits that a message names
SIZE = 'number of tokens'
# Words by which --allow_config_change names inputs, and the settings that say where these are.
DATA, TOKENIZER, WEIGHTS, TEACHER = (
  'stream.data', 'backbone.tokenizer', 'backbone.weights', 'method.teacher',
)  # fmt: skip
WORDS = (DATA, TOKENIZER, WEIGHTS, TEACHER)
# In place of a split: of the blocks of a text that no task has.
PROBE, CORPUS = 'evaluate.probe', 'method.corpus'
PLACES = {
  'stream.path': (DATA,),
  'backbone.path': (TOKENIZER, WEIGHTS),
  'backbone.tokenizer_path': (TOKENIZER,),
  'method.teacher_path': (TEACHER,),
  'method.probe_path': (DATA,),
  'method.corpus': (DATA,),
  'evaluate.probe': (DATA,),
}


class Rows(NamedTuple):
  """The rows of one split.

  Attributes:
    task, split: its names.
    digests: of the rows, in order.
    examples: the rows themselves, for their names; empty where they were read from a file.
  """

  task: str
  split: str
  digests: bytes
  examples: Sequence[Example] = ()


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Digests of what a run reads.

  Attributes:
    template: words of plain rows.
    rows: of every split of every task, and of the texts that no task has.
    tokenizer: {part of the tokenizer: digest}.
    weights: digest of the base weights; None: not read, or from scratch.
    teacher: of an external teacher, likewise.
    chat_template: digest of the chat template that writes rows, '' where none does; None: not read.
    shapes: fields of the configs of the base model (`weights`) and the teacher (`teacher`), where
      these were read from files; see `model_shape.shape_fields`.
  """

  template: str
  rows: tuple[Rows, ...]
  tokenizer: Mapping[str, str]
  weights: str | None = None
  teacher: str | None = None
  chat_template: str | None = None
  shapes: Mapping[str, Json] = dataclasses.field(default_factory=dict)

  @property
  def tasks(self) -> list[str]:
    """Names of the tasks in order; '' stands for the text that no task has."""
    return list(dict.fromkeys(rows.task for rows in self.rows))

  def to_json(self) -> Json:
    """Returns what `inputs.json` holds."""
    splits = [
      {'task': r.task, 'split': r.split, 'rows': len(r.digests) // BYTES, 'sha256': _sha(r.digests)}
      for r in self.rows
    ]
    return {
      'template': self.template, 'splits': splits, 'tokenizer': dict(self.tokenizer),
      'weights': self.weights, 'teacher': self.teacher, 'chat_template': self.chat_template,
      'shapes': dict(self.shapes),
    }  # fmt: skip


def stream_rows(stream: Stream, documents: Stream) -> tuple[Rows, ...]:
  """Returns the digests of all rows of a stream.

  Args:
    stream: that the run reads; raw text is in blocks.
    documents: the same before raw text was cut into blocks.
  """
  labels, found = stream.written_labels, []
  for task, whole in zip(stream.tasks, documents.tasks, strict=True):
    for split in SPLITS:
      rows, examples = getattr(task, split), getattr(whole, split)
      digests = rows.documents if isinstance(rows, Blocks) else row_digests(examples, labels)
      found.append(Rows(task.name, split, digests, examples))
  if isinstance(stream.held_out, Blocks):
    found.append(Rows('', 'probe', stream.held_out.documents))
  return tuple(found)


def probe_rows(blocks: Sequence[Row]) -> tuple[Rows, ...]:
  """Returns the digests of the blocks of `evaluate.probe`; none where there is no probe."""
  if not blocks:
    return ()
  hashes = (hashlib.blake2b(row.tokens.tobytes(), digest_size=BYTES) for row in blocks)
  return (Rows('', PROBE, b''.join(found.digest() for found in hashes)),)


def tokenizer_digests(tokenizer: Tokenizer, special: Sequence[int | None]) -> dict[str, str]:
  """Returns {part: digest} of a tokenizer; parts that are absent are left out.

  Args:
    tokenizer: as it was read, before tokens are added for a run.
    special: ids of the special tokens.
  """
  parts = json.loads(tokenizer.to_str())
  model = parts.pop('model')
  for name in ('version', 'truncation', 'padding'):
    parts.pop(name, None)
  vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items())
  del model['vocab']
  merges = model.pop('merges', None)  # 'a b' in older versions of the library, ['a', 'b'] in newer
  parts |= {
    'vocabulary': vocabulary, 'model': model, 'special ids': list(special),
    'merges': [m.split(' ') if isinstance(m, str) else m for m in merges or ()] or None,
  }  # fmt: skip
  found = {
    name: _sha(_canonical(part).encode()) for name, part in parts.items() if part is not None
  }
  return {**found, SIZE: str(len(vocabulary))}


def weights_digest(params: Params, read: Callable | None = None) -> str:
  """Returns the SHA-256 of the names, shapes and values of parameters on the host or in files.

  Leaves are hashed side by side, a gigabyte a second on each core; one that is still in its file is
  read a block at a time. Several processes share the leaves among them.

  Args:
    params: a tree of arrays.
    read: (path, leaf) -> iterator over contiguous blocks of a leaf; None: `stored.blocks`.
  """

  def one(item: tuple[str, Any]) -> bytes:
    path, leaf = item
    total = hashlib.sha256(f'{path} {np.shape(leaf) or (1,)} {leaf.dtype}\n'.encode())
    for block in blocks(leaf) if read is None else read(path, leaf):
      total.update(block.reshape(-1).view(np.uint8).data)
    return total.digest()

  return _sha(b''.join(distributed.shared_out(one, sorted(leaves_by_path(params).items()))))


def template_digest(source: str) -> str:
  """Returns the digest of a chat template; '' for none."""
  return _sha(source.encode('utf-8', 'surrogatepass')) if source else ''


def digests_of(
  tokenizer: Tokenizer, special: Sequence[int | None], params: Params | None
) -> tuple[dict[str, str], str | None]:
  """Returns the digests of a model's tokenizer and of its weights, None where it has none."""
  weights = None if params is None else weights_digest(params)
  return tokenizer_digests(tokenizer, special), weights


def write(workdir: pathlib.Path, inputs: Inputs) -> None:
  """Writes `inputs.rows` and `inputs.json`."""
  write_atomically(workdir / ROWS, b''.join(r.digests for r in inputs.rows))
  write_json(workdir / FILE, inputs.to_json())


def read(workdir: pathlib.Path) -> Inputs | None:
  """Returns the inputs of the run in a workdir; None where an earlier jcl wrote none.

  Raises:
    UserError: the file is damaged.
  """
  file = workdir / FILE
  if not file.is_file():
    return None
  try:
    stored = json.loads(file.read_text('utf-8'))
    digests = _stored_rows(workdir / ROWS, stored['splits'])
    rows = tuple(
      Rows(str(split['task']), str(split['split']), part)
      for split, part in zip(stored['splits'], digests, strict=True)
    )
    return Inputs(
      stored['template'], rows, dict(stored['tokenizer']), stored['weights'], stored['teacher'],
      stored.get('chat_template'), dict(stored.get('shapes', {})),  # not of an earlier jcl
    )  # fmt: skip
  except (ValueError, KeyError, TypeError, RecursionError):
    raise UserError(
      f'{file} is damaged; delete it, and the run goes on without comparing what it reads'
    ) from None


def _stored_rows(file: pathlib.Path, splits: Sequence[Json]) -> Iterator[bytes]:
  """Yields the digests of the rows of each split, checked.

  Raises:
    ValueError: they are not those that were written.
  """
  content, start = file.read_bytes() if file.is_file() else b'', 0
  for split in splits:
    part = content[start : start + BYTES * split['rows']]
    start += len(part)
    if split['rows'] < 0 or _sha(part) != split['sha256']:
      raise ValueError('rows')
    yield part


def differences(before: Inputs, now: Inputs) -> dict[str, str]:
  """Returns {word of an input: what changed}; what was not read is not compared."""
  found = {}
  if changed := _of_stream(before, now):
    found[DATA] = changed
  parts = [
    name for name in dict.fromkeys([*before.tokenizer, *now.tokenizer])
    if before.tokenizer.get(name) != now.tokenizer.get(name)
  ]  # fmt: skip
  if parts:
    found[TOKENIZER] = f'another {", ".join(part.replace("_", " ") for part in parts)}'
  for word, field in ((WEIGHTS, 'weights'), (TEACHER, 'teacher')):
    old, new = getattr(before, field), getattr(now, field)
    differing = changed_fields(before.shapes.get(field, {}), now.shapes.get(field, {}))
    if None not in (old, new) and old != new:
      differing.insert(0, f'weights of the digest {new[:8]}…, not {old[:8]}…')
    if differing:
      found[word] = ', '.join(differing)
  return found


def _of_stream(before: Inputs, now: Inputs) -> str:
  """Returns what changed in a stream, in words; empty where nothing did."""
  lines, chats = [], (before.chat_template, now.chat_template)
  if before.template != now.template:
    lines.append(f'template {now.template!r}, not {before.template!r}')
  if None not in chats and chats[0] != chats[1]:
    lines.append("another chat template (stream.chat_template or the model's own)")
  if before.tasks != now.tasks:
    return '; '.join([*lines, f'tasks {", ".join(now.tasks)}, not {", ".join(before.tasks)}'])
  old = {(r.task, r.split): r.digests for r in before.rows}
  new = {(r.task, r.split): r for r in now.rows}
  found = []
  for key in dict.fromkeys([*old, *new]):
    rows = new.get(key, Rows(*key, b''))
    if (change := difference(old.get(key, b''), rows.digests)) is not None:
      text = key[1] if key[1] in (PROBE, CORPUS) else 'method.probe_path'
      where = f'task {key[0]!r}, {key[1]}' if key[0] else text
      found.append(f'{where}: {change}, first {_called(rows, change.first)}')
  more = [count_of(len(found) - SHOWN, 'more split')] if len(found) > SHOWN else []
  return '; '.join([*lines, *found[:SHOWN], *more])


def _called(rows: Rows, place: int) -> str:
  """Returns the name of a row in messages."""
  if place < len(rows.examples) and rows.examples[place].name:
    return f'row {place} ({rows.examples[place].name})'
  return f'row {place}' + (' (after the last)' if place == len(rows.digests) // BYTES else '')


class Change(NamedTuple):
  """A change of an input.

  Attributes:
    what: what changed, in words.
    line: the same with the input's name and place.
    never: why a run cannot go on with it; empty: it can where the user allows it.
  """

  what: str
  line: str
  never: str


def changes(
  before: Inputs | None, now: Inputs | None, config: Config, begun: int
) -> dict[str, Change]:
  """Returns {word of an input: its change}; arguments as in `differences`, `lines`, `fixed`."""
  if before is None or now is None:
    return {}
  found = differences(before, now)
  never = fixed(before, now, begun) if {DATA, TOKENIZER} & set(found) else ''
  texts = lines(found, config)
  made = {}
  for (word, what), line in zip(found.items(), texts, strict=True):
    why = never if word in (DATA, TOKENIZER) else ''
    made[word] = Change(what, f'{line}{f"; {why}" if why else ""}', why)
  return made


def lines(changes: Mapping[str, str], config: Config) -> list[str]:
  """Returns a line for each input that changed, with the place that it is read from."""
  places = dict(paths.path_fields(config))
  found = []
  for word, changed in changes.items():
    of = (places.get(place, '') for place, words in PLACES.items() if word in words)
    place = next((path for path in of if path), '')
    found.append(f'{word}{f" of {place}" if place else ""}: {changed}')
  return found


def check(
  workdir: pathlib.Path, now: Inputs | None, config: Config, allowed: Collection[str] = ()
) -> None:
  """Checks that a finished run is looked at with the inputs that it was trained on.

  Args:
    workdir: of the run.
    now: what was read.
    config: of the run, with the places that were read.
    allowed: words of inputs that may differ.

  Raises:
    UserError: others differ; names them and what changed.
  """
  before = read(workdir)
  if before is None or now is None:
    return
  found = {word: x for word, x in differences(before, now).items() if word not in allowed}
  if found:
    raise UserError(
      f'{workdir} is a run on other inputs ({"; ".join(lines(found, config))}); give the place of '
      f'its own by --stream or --base, or go on with --allow_config_change={",".join(found)}'
    )


def fixed(before: Inputs, now: Inputs, begun: int) -> str:
  """Returns why a changed stream cannot go on even where the user allows it; empty where it can.

  Memory refers to rows by number, so the tasks and the numbers of rows up to the task under way
  must stay; sizes of vocabulary and heads are those of the parameters.

  Args:
    before: of the run so far.
    now: what it would go on with.
    begun: number of tasks that have begun.
  """
  tasks, others = ([name for name in inputs.tasks if name] for inputs in (before, now))
  if tasks != others:
    return 'tasks cannot be added, removed, renamed or put in another order'
  for old, new in zip(before.rows, now.rows, strict=False):
    if old.task in tasks[:begun] and len(old.digests) != len(new.digests):
      return (
        f'rows cannot be added to or removed from task {old.task!r}, which has begun: memory '
        'refers to rows by number'
      )
  sizes = [inputs.tokenizer.get(SIZE) for inputs in (before, now)]
  if sizes[0] != sizes[1]:
    return f'the tokenizer has {sizes[1]} tokens, the model {sizes[0]}'
  return ''


def _sha(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


_canonical = functools.partial(json.dumps, sort_keys=True, separators=(',', ':'))
