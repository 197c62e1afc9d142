"""Raw text as training rows: documents tokenised once into a file, and read from it in blocks.

A corpus is one split of a task, its documents one after another:

    {eos}{document}{eos}{document}{eos}
    {bos}{document}{eos}{bos}{document}{eos}      where the tokenizer adds a beginning-of-sequence

Of n tokens and L a block, block b has the tokens b·L … (b+1)·L − 1 as inputs, and at each of them
the next token is the target. So blocks share no input, every token but the first is a target once,
in the first place of the next block too, and the last block may be short. A beginning-of-sequence
is never a target. A document sees what stands before it in its block.

The tokens lie in a memory-mapped file of the cache, whose name is a digest of texts and tokenizer:
no token stands in memory before its block is asked for.
"""

import bisect
import dataclasses
import hashlib
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jcl.batching.batch import Row
from jcl.batching.text_formats import Text
from jcl.storage.atomic import whole_file
from jcl.streams.stream import Example, Stream
from jcl.streams.tables import read_text

DOCUMENTS = 256  # tokenised together
MAGIC = b'jcl tok1'
HEADER = struct.Struct('<8s32sQI12x')  # magic, digest of what it was made of, tokens, their CRC-32


class Blocks(Sequence):
  """The blocks of a corpus as examples, each made when it is asked for.

  Attributes:
    tokens: [n] int32, mapped from the file.
    first: number of the first block.
    task: index of its task; -1 for text that is no task's.
    name: what messages call the corpus.
    length: tokens of a block.
    bos: the token that is never a target, or None.
  """

  def __init__(
    self, tokens: np.ndarray, first: int, task: int, name: str, length: int, bos: int | None
  ):
    self.tokens, self.first, self.task, self.name = tokens, first, task, name
    self.length, self.bos = length, bos

  def __len__(self) -> int:
    return -(-(len(self.tokens) - 1) // self.length)

  def __getitem__(self, index: Any) -> Any:
    places = range(len(self))[index]
    if isinstance(places, range):
      return [self[i] for i in places]
    return Example(self.first + places, '', '', self.task, name=f'{self.name}[{places}]')

  @property
  def targets(self) -> int:
    """Tokens that are predicted."""
    if self.bos is None:
      return len(self.tokens) - 1
    return int(np.count_nonzero(self.tokens[1:] != self.bos))

  def size(self, place: int) -> int:
    """Tokens of one block."""
    return min(self.length, len(self.tokens) - 1 - place * self.length)

  def row(self, place: int, replay: bool = False) -> Row:
    """One block, as it lies in the file."""
    start = place * self.length
    seen, wanted = (
      np.asarray(self.tokens[at : at + self.size(place)]) for at in (start, start + 1)
    )
    if self.bos is None:
      targets = np.arange(len(wanted))
    else:
      targets = np.flatnonzero(wanted != self.bos)
      wanted = wanted[targets]
    return Row(seen, targets, wanted, 2 * (self.first + place), self.task, replay)


class PackedText(Text):
  """A tokenizer and the corpora that were tokenised with it.

  Args:
    folder: the cache of tokenised corpora.
    *rest: as `Text` takes them, without the format.
  """

  def __init__(
    self, folder: pathlib.Path, tokenizer: Any, special: Any, template: str, max_length: int
  ):
    super().__init__(tokenizer, special, template, 'packed', max_length)
    self._folder = folder
    self._begin = [] if self.bos in (None, self.eos) else [self.bos]
    self._corpora: list[Blocks] = []

  @property
  def start(self) -> list[int]:
    """What stands before the first document of a corpus, and before a prompt."""
    return self._begin or [self.eos]

  def add(self, documents: Sequence[Example], task: int, name: str) -> Blocks:
    """The blocks of some documents, numbered after those that were added before.

    Raises:
      UserError: a text contains a special token.
      OSError: the cache cannot be written.
    """
    last = self._corpora[-1] if self._corpora else None
    first = last.first + len(last) if last is not None else 0
    never = self._begin[0] if self._begin else None
    blocks = Blocks(self._tokens(documents), first, task, name, self.max_length, never)
    self._corpora.append(blocks)
    return blocks

  def rows(self, example: Example, replay: bool = False) -> tuple[Row, ...]:
    """The row of a block."""
    blocks, place = self._place(example)
    return (blocks.row(place, replay),)

  def size(self, example: Example) -> int:
    """Tokens of a block, which need not be read."""
    blocks, place = self._place(example)
    return blocks.size(place)

  def _place(self, example: Example) -> tuple[Blocks, int]:
    at = bisect.bisect_right(self._corpora, example.number, key=lambda blocks: blocks.first) - 1
    return self._corpora[at], example.number - self._corpora[at].first

  def _tokens(self, documents: Sequence[Example]) -> np.ndarray:
    """The tokens of a corpus out of the cache, tokenised where it has them not, or not whole."""
    digest = self._digest(documents)
    path = self._folder / f'{digest.hex()[:40]}.tokens'
    found = _mapped(path, digest)
    if found is None:
      path.parent.mkdir(parents=True, exist_ok=True)
      _write(path, digest, self._tokenised(documents))
      found = _mapped(path, digest)
    if found is None:
      raise OSError(0, 'what was written just now reads back differently', str(path))
    return found

  def _digest(self, documents: Sequence[Example]) -> bytes:
    """SHA-256 of all that the tokens are a function of."""
    total = hashlib.sha256(f'{self.start} {self.eos}\n{self.tokenizer.to_str()}'.encode())
    for document in documents:
      text = document.text.encode()
      total.update(struct.pack('<Q', len(text)))
      total.update(text)
    return total.digest()

  def _tokenised(self, documents: Sequence[Example]) -> Iterator[np.ndarray]:
    """The tokens of some documents at a time."""
    before = self.start
    for first in range(0, len(documents), DOCUMENTS):
      some = documents[first : first + DOCUMENTS]
      names = [f'document {d.name or d.number}' for d in some]
      ids = self.encode_all([d.text for d in some], names)
      yield np.array([*before, *self._joined(ids)], '<i4')
      before = self._begin

  def _joined(self, ids: Sequence[Sequence[int]]) -> Iterator[int]:
    """Documents, each but the first with what begins it, each with its end."""
    for i, document in enumerate(ids):
      yield from self._begin if i else ()
      yield from document
      yield self.eos


def pack(stream: Stream, text: PackedText, probe: str = '') -> Stream:
  """The stream with the blocks of its documents in the place of its examples.

  Args:
    stream: its examples are documents.
    text: that tokenises them and knows their blocks from then on.
    probe: path of a file of text that no task has; empty: none.

  Raises:
    UserError: a text contains a special token, or the probe cannot be read.
  """
  tasks = []
  for task in stream.tasks:
    splits = {'train': task.train, 'dev': task.dev, 'test': task.test}
    packed = {
      split: text.add(documents, task.index, f'{task.name}/{split}') if documents else ()
      for split, documents in splits.items()
    }
    tasks.append(dataclasses.replace(task, **packed))
  held_out: Sequence[Example] = ()
  if probe:
    document = Example(0, read_text(pathlib.Path(probe), probe).strip(), '', -1, name=probe)
    held_out = text.add([document], -1, 'probe')
  return dataclasses.replace(stream, tasks=tuple(tasks), held_out=held_out)


def cache_folder(path: str) -> pathlib.Path:
  """The folder of tokenised corpora that the settings name, by default the user's cache."""
  default = pathlib.Path.home() / '.cache' / 'jcl' / 'corpora'
  return pathlib.Path(path).expanduser() if path else default


def _write(path: pathlib.Path, digest: bytes, parts: Iterator[np.ndarray]) -> None:
  """Writes a corpus whole or not at all."""
  count = check = 0
  with whole_file(path) as file:
    file.write(bytes(HEADER.size))
    for tokens in parts:
      content = tokens.tobytes()
      count, check = count + len(tokens), zlib.crc32(content, check)
      file.write(content)
    file.seek(0)
    file.write(HEADER.pack(MAGIC, digest, count, check))


def _mapped(path: pathlib.Path, digest: bytes) -> np.ndarray | None:
  """The tokens of a file; None where it is not there, not whole, damaged, or of something else."""
  try:
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
      header = file.read(HEADER.size)
  except FileNotFoundError:
    return None
  if len(header) < HEADER.size:
    return None
  magic, of, count, check = HEADER.unpack(header)
  if (magic, of, size) != (MAGIC, digest, HEADER.size + 4 * count) or not count:
    return None
  tokens = np.memmap(path, '<i4', 'r', HEADER.size)
  return tokens if zlib.crc32(tokens) == check else None
