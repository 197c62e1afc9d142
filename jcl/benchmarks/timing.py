"""Contenders take turns on the same work; what counts is the median of the ratios of each round.

In a round every contender does the work once, the order turned by one from round to round, so that
whatever else the machine does falls on all of them alike. A ratio is theirs / ours of one round.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

OURS = 'jcl'
Work = Callable[[], float]
"""Does the work once and waits for its end -> the number of units done: steps, tokens, …"""


@dataclasses.dataclass(frozen=True)
class Case:
  """The times that contenders took for one piece of work.

  Attributes:
    name: `workload` for its first case, `workload/case` for the others.
    unit: what `seconds` are counted by: step, token, draw, …
    seconds: {contender: seconds a unit, one number a round}.
    facts: what else is known of the work: rows, real tokens, operations, …
  """

  name: str
  unit: str
  seconds: dict[str, list[float]]
  facts: dict[str, float] = dataclasses.field(default_factory=dict)

  def median(self, contender: str = OURS) -> float:
    """Returns the median seconds a unit of a contender."""
    return statistics.median(self.seconds[contender])

  def ratios(self) -> dict[str, list[float]]:
    """Returns {contender: theirs / ours of each round} of the others."""
    ours = self.seconds.get(OURS, [])
    return {
      name: [theirs / mine for theirs, mine in zip(times, ours, strict=True)]
      for name, times in self.seconds.items()
      if name != OURS and ours
    }

  def spread(self, contender: str) -> tuple[float, float, float]:
    """Returns the least, the median and the largest ratio of a contender over the rounds."""
    found = self.ratios()[contender]
    return min(found), statistics.median(found), max(found)


def alternate(
  contenders: Mapping[str, Work], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
  """Lets the contenders do their work in turn.

  Args:
    contenders: name -> its work.
    rounds: how often each does it.
    clock: seconds since some moment.

  Returns:
    {contender: seconds a unit of its work, one number a round}.

  Raises:
    RuntimeError: a contender did nothing in a round.
  """
  names = list(contenders)
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for turn in range(rounds):
    first = turn % len(names)
    for name in names[first:] + names[:first]:
      start = clock()
      done = contenders[name]()
      passed = clock() - start
      if not done > 0:
        raise RuntimeError(f'{name} did nothing in round {turn + 1}; its work must be above 0')
      seconds[name].append(passed / done)
  return seconds


def together(name: str, unit: str, parts: Mapping[str, tuple[Case, float]]) -> Case:
  """Returns the case that is made of parts, each of which is done a number of times.

  Args:
    name: of the case.
    unit: what it counts.
    parts: part -> its case and how often its unit is done. A contender without a part does that
      work in another one.
  """
  names = list(dict.fromkeys(c for case, _ in parts.values() for c in case.seconds))
  seconds = {}
  for contender in names:
    scaled = [
      [times * x for x in case.seconds[contender]]
      for case, times in parts.values()
      if contender in case.seconds
    ]
    seconds[contender] = [sum(turn) for turn in zip(*scaled, strict=True)]
  return Case(name, unit, seconds)
