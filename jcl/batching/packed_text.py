"""Raw text as training rows: documents are tokenised once into a file and read from it in blocks.

A corpus is one split of a task, its documents joined:

    {eos}{document}{eos}{document}{eos}
    {bos}{document}{eos}{bos}{document}{eos}      where the tokenizer adds a beginning-of-sequence

With blocks of L tokens, block b has the tokens b·L … (b+1)·L − 1 as inputs, and the target at each
of them is the next token. So no two blocks share an input, every token but the first is a target
once (the last target of a block is the first input of the next), and the last block may be short. A
beginning-of-sequence is never a target. A document sees the text before it in its block.

The tokens lie in a memory-mapped file of the cache, whose name is a digest of texts and tokenizer.
No token is in memory before its block is asked for.
"""

import bisect
import dataclasses
import hashlib
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from tokenizers import Tokenizer

from jcl.batching.batch import Row
from jcl.batching.outlines import Outline, outline
from jcl.batching.special_text import SpecialTokens
from jcl.batching.text_formats import Text
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.storage import paths
from jcl.storage.atomic import whole_file
from jcl.storage.progress import watched
from jcl.streams.digests import row_digest
from jcl.streams.files import read_text
from jcl.streams.stream import Example, Lazy, Stream

DOCUMENTS = 256  # number of documents that are tokenised together
MAGIC = b'jcl tok1'
HEADER = struct.Struct('<8s32sQI12x')  # magic, digest of texts and tokenizer, tokens, their CRC-32


class Blocks(Sequence[Example]):
  """The blocks of a corpus as examples, each made when it is asked for.

  Attributes:
    tokens: [n] int32 token ids, mapped from the file.
    first: number of the first block among all blocks of the run.
    task: index of the task; -1 for text that no task has.
    name: name of the corpus in messages.
    length: tokens of a block; the last block may be shorter.
    bos: token that is never a target; None: there is none.
    documents: digests of the documents, see `jcl.streams.digests`.
  """

  def __init__(
    self, tokens: np.ndarray, first: int, task: int, name: str, length: int, bos: int | None,
    documents: bytes = b'',
  ):  # fmt: skip
    self.tokens, self.first, self.task, self.name = tokens, first, task, name
    self.length, self.bos, self.documents = length, bos, documents

  def __len__(self) -> int:
    return -(-(len(self.tokens) - 1) // self.length)

  @overload
  def __getitem__(self, index: int) -> Example: ...

  @overload
  def __getitem__(self, index: slice) -> list[Example]: ...

  def __getitem__(self, index: int | slice) -> Example | list[Example]:
    if isinstance(index, slice):
      return [self[i] for i in range(len(self))[index]]
    place = range(len(self))[index]
    return Example(self.first + place, '', '', self.task, name=f'{self.name}[{place}]')

  @property
  def targets(self) -> int:
    """Number of tokens that are predicted."""
    if self.bos is None:
      return len(self.tokens) - 1
    return int(np.count_nonzero(self.tokens[1:] != self.bos))

  def size(self, place: int) -> int:
    """Returns the number of tokens of one block."""
    return min(self.length, len(self.tokens) - 1 - place * self.length)

  def row(self, place: int, replay: bool = False) -> Row:
    """Returns the row of one block, as it lies in the file."""
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
    folder: cache of tokenised corpora.
    tokenizer, special, template: as in `Text`.
    max_length: tokens of a block.
    special_tokens: as in `Text`; `drop` leaves whole documents out.

  Attributes:
    general: blocks of a corpus that no task has; empty: there is none.
  """

  general: Sequence[Example] = ()

  def __init__(
    self,
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    template: str,
    max_length: int,
    special_tokens: str = 'refuse',
  ):
    super().__init__(
      tokenizer, special, template, 'packed', max_length, special_tokens=special_tokens
    )
    self._folder = folder
    self._begin = [] if self.bos in (None, self.eos) else [self.bos]
    self._corpora: list[Blocks] = []

  @property
  def start(self) -> list[int]:
    """Token ids before the first document of a corpus, and before a prompt."""
    return self._begin or [self.eos]

  def add(self, documents: Sequence[Example], task: int, name: str) -> Blocks:
    """Returns the blocks of some documents, numbered after all blocks that were added before.

    Args:
      documents: documents of one split.
      task: index of the task; -1 for text that no task has.
      name: name of the corpus in messages.

    Raises:
      UserError: a text contains a special token.
      OSError: the cache cannot be written.
    """
    last = self._corpora[-1] if self._corpora else None
    first = last.first + len(last) if last is not None else 0
    never = self._begin[0] if self._begin else None
    digest, rows = self._digests(documents)
    if self.encoder.policy == 'drop':
      documents = self._without_special_tokens(documents, name)
    tokens = self._tokens(documents, digest)
    blocks = Blocks(tokens, first, task, name, self.max_length, never, rows)
    self._corpora.append(blocks)
    return blocks

  def rows(self, example: Example, replay: bool = False) -> tuple[Row, ...]:
    """Returns the one row of a block."""
    blocks, place = self._place(example)
    return (blocks.row(place, replay),)

  def outlines(self, example: Example) -> tuple[Outline, ...]:
    """Returns the numbers of tokens and targets of the row of a block, which is not read for it."""
    if self._begin:  # no target: how many there are is in the block
      return super().outlines(example)
    return (outline(*[self.size(example)] * 2),)

  def size(self, example: Example) -> int:
    """Returns the number of tokens of a block without reading it."""
    blocks, place = self._place(example)
    return blocks.size(place)

  def _without_special_tokens(self, documents: Sequence[Example], name: str) -> Sequence[Example]:
    """Returns the documents without those that hold a special token, and counts these."""
    places = [i for i, d in enumerate(documents) if not self.encoder.holds_special(d.text)]
    if not places:
      raise UserError(f'{name}: every document holds a special token, so drop leaves none')
    self.dropped += len(documents) - len(places)
    if len(places) == len(documents):
      return documents
    return Lazy(places, lambda _, place: documents[place])

  def _place(self, example: Example) -> tuple[Blocks, int]:
    at = bisect.bisect_right(self._corpora, example.number, key=lambda blocks: blocks.first) - 1
    return self._corpora[at], example.number - self._corpora[at].first

  def _tokens(self, documents: Sequence[Example], digest: bytes) -> np.ndarray:
    """Returns the tokens of a corpus from the cache; tokenises what it lacks or has in part."""
    path = self._folder / f'{digest.hex()[:40]}.tokens'
    found = _mapped(path, digest)
    if found is None:
      path.parent.mkdir(parents=True, exist_ok=True)
      _write(path, digest, self._tokenised(documents))
      found = _mapped(path, digest)
    if found is None:
      raise OSError(0, 'tokens that were just written read back differently', str(path))
    return found

  def _digests(self, documents: Sequence[Example]) -> tuple[bytes, bytes]:
    """Returns the SHA-256 of all that the tokens are a function of, and the digests of rows."""
    rows = []
    total = hashlib.sha256(f'{self.start} {self.eos}\n{self.tokenizer.to_str()}'.encode())
    if self.encoder.policy != 'refuse':
      total.update(f'special tokens: {self.encoder.policy}\n'.encode())
    unknown = None if self.unknown is None else self.tokenizer.id_to_token(self.unknown)
    for document in documents:
      if unknown and unknown in document.text:  # jcl once kept it as the token
        total.update(b'the unknown token as text\n')
      text = document.text.encode()
      total.update(struct.pack('<Q', len(text)))
      total.update(text)
      rows.append(row_digest(document, None))
    return total.digest(), b''.join(rows)

  def _tokenised(self, documents: Sequence[Example]) -> Iterator[np.ndarray]:
    """Yields the tokens of a corpus, some documents at a time."""
    before = self.start
    for first in watched(range(0, len(documents), DOCUMENTS), 'tokenising'):
      some = documents[first : first + DOCUMENTS]
      names = [f'document {d.called}' for d in some]
      ids = self.encode_all([d.text for d in some], names)
      yield np.array([*before, *self._joined(ids)], '<i4')
      before = self._begin

  def _joined(self, ids: Sequence[Sequence[int]]) -> Iterator[int]:
    """Yields the tokens of documents, each with its end, each but the first with its beginning."""
    for i, document in enumerate(ids):
      yield from self._begin if i else ()
      yield from document
      yield self.eos


def packed_stream(
  config: StreamConfig, stream: Stream, tokenizer: Tokenizer, special: SpecialTokens,
  max_length: int, probe: str = '',
) -> tuple[PackedText, Stream]:  # fmt: skip
  """Returns the texts of a run of cpt, and its stream as blocks; arguments and errors as of `pack`.

  Args:
    config: settings of the stream: where its tokens are kept, and what special tokens in it mean.
    max_length: tokens of a block at most.
  """
  folder, in_text = cache_folder(config.cache), config.special_tokens_in_text
  text = PackedText(folder, tokenizer, special, stream.template, max_length, in_text)
  return text, pack(stream, text, probe)


def pack(stream: Stream, text: PackedText, probe: str = '') -> Stream:
  """Returns the stream with the blocks of its documents in place of its examples.

  Args:
    stream: stream whose examples are documents.
    text: text that tokenises the documents and knows their blocks from then on.
    probe: path of a file of text that no task has, for `Stream.held_out`; empty: none.

  Raises:
    UserError: a text contains a special token, or the probe cannot be read.
  """
  tasks = []
  for task in stream.tasks:
    packed: list[Sequence[Example]] = [
      text.add(documents, task.index, f'{task.name}/{split}') if documents else ()
      for split, documents in (('train', task.train), ('dev', task.dev), ('test', task.test))
    ]
    train, dev, test = packed
    tasks.append(dataclasses.replace(task, train=train, dev=dev, test=test))
  held_out: Sequence[Example] = ()
  if probe:
    document = Example(
      0, read_text(paths.local(probe, 'method.probe_path'), probe).strip(), '', -1, name=probe
    )
    held_out = text.add([document], -1, 'probe')
  return dataclasses.replace(stream, tasks=tuple(tasks), held_out=held_out)


def cache_folder(path: str) -> pathlib.Path:
  """Returns the folder of tokenised corpora: `path`, or a folder in the user's cache if empty."""
  return paths.local(path, 'stream.cache') if path else paths.user_cache('corpora')


def _write(path: pathlib.Path, digest: bytes, parts: Iterator[np.ndarray]) -> None:
  """Writes a corpus completely or not at all."""
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
  """Returns the tokens of a file; None if it is missing, cut, damaged, or of another corpus."""
  try:
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
      header = file.read(HEADER.size)
  except FileNotFoundError:
    return None
  if len(header) < HEADER.size:
    return None
  magic, own_digest, count, check = HEADER.unpack(header)
  if (magic, own_digest, size) != (MAGIC, digest, HEADER.size + 4 * count) or not count:
    return None
  tokens = np.memmap(path, '<i4', 'r', HEADER.size)
  return tokens if zlib.crc32(tokens.data) == check else None
