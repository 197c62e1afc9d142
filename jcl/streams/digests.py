"""Digests of the rows of a stream: whether a run still reads the rows that it began with.

A row's digest covers all that a run reads of it: text, answer, label. Its number, its id and the
file that it stands in do not count, so that data may be moved, linked and split into files anew.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jcl.errors import count_of
from jcl.streams.stream import Example

BYTES = 8  # of a row's digest
# Fields of an example that its digest leaves out.
UNREAD = ('number', 'name', 'place', 'task', 'label')


def row_digests(examples: Iterable[Example], labels: Sequence[str]) -> bytes:
  """Returns the digests of rows, `BYTES` each, in the order of the rows.

  Args:
    examples: the rows.
    labels: label of each class, as the user wrote it.
  """
  return b''.join(row_digest(e, labels[e.label] if e.label >= 0 else None) for e in examples)


def row_digest(example: Example, label: str | None) -> bytes:
  """Returns the digest of one row, the same in every process and version of Python."""
  read = {name: value for name, default in _READ if (value := getattr(example, name)) != default}
  return hashlib.blake2b(_encode([label, read]).encode(), digest_size=BYTES).digest()


_READ = tuple((f.name, f.default) for f in dataclasses.fields(Example) if f.name not in UNREAD)
_encode = json.JSONEncoder(default=dataclasses.asdict).encode


class Difference(NamedTuple):
  """How the rows of a split differ from those before.

  Attributes:
    changed, added, removed: numbers of rows; a row removed and another one added is one changed.
    moved: number of rows that stand in another place, where no other row differs.
    first: place of the first row that differs.
  """

  changed: int
  added: int
  removed: int
  moved: int
  first: int

  def __str__(self) -> str:
    kinds = ('changed', 'added', 'removed', 'moved')
    counts = [(getattr(self, kind), kind) for kind in kinds if getattr(self, kind)]
    return ', '.join(f'{count_of(n, "row")} {kind}' for n, kind in counts)


def difference(before: bytes, now: bytes) -> Difference | None:
  """Compares the digests of the rows of a split; returns None where they are equal."""
  if before == now:
    return None
  old, new = (np.frombuffer(rows, f'<u{BYTES}') for rows in (before, now))
  both = min(len(old), len(new))
  differs = np.flatnonzero(old[:both] != new[:both])
  counts = [collections.Counter(rows.tolist()) for rows in (old, new)]
  removed, added = ((counts[i] - counts[1 - i]).total() for i in (0, 1))
  changed = min(removed, added)
  return Difference(
    changed, added - changed, removed - changed, 0 if removed or added else len(differs),
    int(differs[0]) if len(differs) else both,
  )  # fmt: skip
