"""The findings of `jcl doctor`: what is wrong with a run, judged by the run's own figures.

A finding has a figure of the run, what the figure means, and one thing to do. Findings tell a wrong
setting from a weak method: a penalty too small to have an effect, hardly any replay, pseudo samples
that are all alike, a task that was never learned and so cannot be forgotten.

All figures come from `results.json` and the lines of `metrics.jsonl`. The limits are the constants
of the files here; they are set so that a healthy run of any method has no finding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from jcl.reports.doctor import learning, past, penalties
from jcl.reports.doctor.finding import WORKDIR, Finding, Run
from jcl.reports.formatting import flatten
from jcl.reports.results import Results, is_number
from jcl.types import Json

__all__ = ['CHECKS', 'Finding', 'findings']

Check = Callable[[Run], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
  learning.refused, learning.not_learned, learning.curves, learning.clipped, penalties.penalties,
  penalties.penalty_alone, past.replay, past.buffer, past.pseudo_samples, learning.invalid,
  learning.drift,
)  # fmt: skip


def findings(results: Results, lines: Sequence[Json] = (), workdir: str = WORKDIR) -> list[Finding]:
  """Returns the findings on a run, in the order of `CHECKS`.

  Args:
    results: contents of `results.json`, of a run that may be under way.
    lines: those of `metrics.jsonl`; without them the checks of losses and gradients find nothing.
    workdir: folder of the run, which commands name.
  """
  steps: dict[int, list[Json]] = {}
  norms: dict[int, list[Mapping[str, float]]] = {}
  for line in lines:
    task = line.get('task')
    if not isinstance(task, int) or not 0 <= task < len(results['tasks']):
      continue
    numbers = {name: value for name, value in line.items() if is_number(value)}
    if 'loss' in numbers:
      steps.setdefault(task, []).append(numbers)
    measured = line.get('gradient_norms')
    if isinstance(measured, Mapping) and all(is_number(norm) for norm in measured.values()):
      norms.setdefault(task, []).append(measured)
  run = Run(results, steps, norms, flatten(results.get('config') or {}), workdir)
  return [found for check in CHECKS for found in check(run)]
