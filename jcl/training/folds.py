"""Folds: long work of a hook, cut into chunks, of which a kill loses none.

The rule of re-entry: a hook that was killed is called again from its start with the memory and the
parameters that it was first given. Each fold that it had finished returns its result from the
journal at once; the fold that was under way goes on from its carry. A hook is therefore a function
of its arguments that asks for the same folds in the same order: it reads no clock, iterates over no
set and does not change `memory` in place.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import jax
import numpy as np

from jcl.errors import count_of
from jcl.failures import explain_oom
from jcl.types import Tree

LESS = 'evaluate.batch_size or stream.max_length'  # settings to lower where memory is short
Chunk = TypeVar('Chunk')


@dataclasses.dataclass
class Journal:
  """The folds of the current phase.

  Attributes:
    entries: [name, chunks done, carry, chunks, rows of a chunk] of each fold, in the order in which
      the hook asked for them.
    asked: number of folds that the hook has asked for since it was called, or called again.
  """

  entries: list[list] = dataclasses.field(default_factory=list)
  asked: int = 0

  def copied(self) -> list[list]:
    """Returns the entries with copies of their NumPy arrays, which folds go on to fill in place."""
    copy = lambda x: x.copy() if isinstance(x, np.ndarray) else x
    return [
      [name, done, jax.tree.map(copy, carry), *cut] for name, done, carry, *cut in self.entries
    ]

  def next(self, name: str, chunks: int, rows: int) -> list:
    """Returns the entry of the next fold: the one that a killed hook left, or a new one.

    A finished entry stays finished. An unfinished entry that was cut into other chunks, for another
    number of devices or another batch size, starts again, since its carry belongs to those chunks.

    Args:
      name: name of the fold.
      chunks: number of its chunks.
      rows: rows of a chunk.

    Raises:
      RuntimeError: before it was killed, the hook asked for another fold at this place.
    """
    self.asked += 1
    if self.asked > len(self.entries):
      self.entries.append([name, 0, None, chunks, rows])
    entry = self.entries[self.asked - 1]
    if entry[0] != name:
      raise RuntimeError(f'fold {self.asked} was {entry[0]} before and is {name} now')
    if entry[3:] != [chunks, rows]:
      finished = entry[1] == entry[3]
      entry[1:] = [chunks if finished else 0, entry[2] if finished else None, chunks, rows]
    return entry


@dataclasses.dataclass
class FoldRunner:
  """Runs the folds of the current phase.

  Attributes:
    journal: results and carries of the phase's folds.
    generated: number of tokens sampled in the phase, up to the end of each row.
    on_start: called as (name, chunks done, chunks) before a fold that is not finished goes on.
    before_chunk: called before every chunk.
    on_chunk: called as (name, chunks done, chunks) after every chunk.
    timed: kind of work -> a context manager that counts the seconds spent in it as that kind.
  """

  journal: Journal = dataclasses.field(default_factory=Journal)
  generated: int = 0
  on_start: Callable[[str, int, int], None] = lambda name, done, chunks: None
  before_chunk: Callable[[], None] = lambda: None
  on_chunk: Callable[[str, int, int], None] = lambda name, done, chunks: None
  timed: Callable[[str], AbstractContextManager[None]] = lambda kind: contextlib.nullcontext()

  def run(
    self, name: str, body: Callable[[Tree, Chunk], Tree], carry: Tree, chunks: Sequence[Chunk],
    rows: int,
  ) -> Tree:  # fmt: skip
    """Returns the last carry of carry = body(carry, chunk) over `chunks`.

    A fold that a kill left unfinished goes on from its stored carry. Keys of dictionaries stand in
    JAX's order, as a stored carry has them, so that a loop over them does the same in both.

    Args:
      name: of the work, shown by the progress bar and kept in the journal.
      body: (carry, chunk) -> carry, a function of its arguments; it may fill NumPy arrays of the
        carry in place.
      carry: a tree of arrays in their final shapes; None: `body` makes it from the first chunk.
      chunks: the pieces of the work.
      rows: rows of a chunk.

    Raises:
      UserError: a device has too little memory for a chunk.
    """
    entry = self.journal.next(name, len(chunks), rows)
    carry = _ordered(carry if entry[2] is None else entry[2])
    if entry[1] < len(chunks):
      self.on_start(name, entry[1], len(chunks))
    for i in range(entry[1], len(chunks)):
      self.before_chunk()
      with explain_oom(lambda: f'{name or "a fold"}, {count_of(rows, "row")} a chunk', LESS):
        carry = _ordered(body(carry, chunks[i]))
      entry[1:3] = i + 1, carry
      self.on_chunk(name, i + 1, len(chunks))
    return carry

  def unwatch(self) -> None:
    """Calls nobody from now on."""
    self.on_start = self.on_chunk = lambda name, done, chunks: None
    self.before_chunk = lambda: None

  def forget(self) -> None:
    """Starts an empty journal, as the next phase has."""
    self.journal = Journal()


def _ordered(carry: Tree) -> Tree:
  """Returns the same leaves in new dictionaries, whose keys are ordered as JAX orders them."""
  return jax.tree.map(lambda leaf: leaf, carry)
