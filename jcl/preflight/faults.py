"""Faults that single rows or tokens have, counted by split, and how a line says them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jcl.preflight.split_stats import Split
from jcl.streams.raw import SPLITS

NOTED = 0.01  # share of the rows of a split above which a fault is worth a line
UNKNOWN = 0.05  # the same of tokens: test texts have a few words that no training text has


class Fault(NamedTuple):
  """A fault that single rows or tokens of a split can have.

  Attributes:
    count: split -> number of faulty rows or tokens.
    of: what is counted: `rows` or `tokens`.
    least: share of a split above which the fault is worth a line.
    what: the fault in words.
    why: what follows from it, or what to do.
  """

  count: Callable[[Split], int]
  of: str
  least: float
  what: str
  why: str


FAULTS = (
  Fault(
    lambda s: s.cut, 'rows', NOTED, 'rows lose the end of their input',
    'raise stream.max_length if it matters',
  ),
  Fault(
    lambda s: s.leaked + s.elsewhere if s.name != 'train' else 0, 'rows', 0,
    'rows stand in a train split too', 'they measure what is known by heart',
  ),
  Fault(
    lambda s: s.conflicting, 'rows', 0, 'rows have a text that is trained with another answer',
    'no model can get both right',
  ),
  Fault(
    lambda s: s.repeated, 'rows', NOTED, 'rows repeat a text of their split',
    'it counts that often',
  ),
  Fault(
    lambda s: s.unknown, 'tokens', UNKNOWN, 'tokens are unknown to the tokenizer',
    'words that it does not know all read the same; one that is made of the training texts lacks '
    'the new words of other splits, and backbone.tokenizer=bpe reads any',
  ),
  Fault(
    lambda s: s.lossy, 'rows', NOTED, 'rows have letters in their input that the tokenizer loses',
    'the model does not see them; take another tokenizer if it matters',
  ),
)  # fmt: skip


def of_fault(fault: Fault, splits: Sequence[Split]) -> Iterator[tuple[float, str]]:
  """Yields (largest share of a split, line) if the fault is worth a line."""
  of = lambda split: getattr(split, fault.of)
  share = lambda split: fault.count(split) / of(split)
  worst = max(splits, key=share)
  if share(worst) <= fault.least:
    return
  parts = []
  for name in SPLITS:
    alike = [s for s in splits if s.name == name]
    if count := sum(map(fault.count, alike)):
      parts.append(f'{name} {share_of(count, sum(map(of, alike)))}')
  most = f'most in {worst.task}, {worst.name} ({percent(share(worst))})'
  yield share(worst), f'{fault.what}: {", ".join(parts)}, {most}; {fault.why}'


def unknown_by_split(splits: Sequence[Split]) -> Iterator[str]:
  """Yields `test 3.1 %`: the share of unknown tokens by kind of split, as in warnings."""
  for name in SPLITS:
    alike = [s for s in splits if s.name == name]
    if count := sum(s.unknown for s in alike):
      yield f'{name} {percent(count / sum(s.tokens for s in alike))}'


def share_of(count: int, of: int) -> str:
  """'1.2 % (12 of 1,000)'."""
  return f'{percent(count / of)} ({count:,} of {of:,})'


def percent(share: float) -> str:
  """'1.2 %'; a share above 0 is never shown as 0."""
  return '<0.1 %' if 0 < share < 0.0005 else f'{100 * share:.1f} %'
