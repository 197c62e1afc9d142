"""The findings of `jcl doctor`: what is wrong with a run, judged by the run's own figures.

A finding has a figure of the run, what the figure means, one thing to do, and the command that does
it. Findings tell a wrong setting from a weak method: a penalty too small to have an effect, hardly
any replay, pseudo samples that are all alike, a task that was never learned and so cannot be
forgotten.

A cause has one finding: it hides its consequences (`HIDES`), whose advice could contradict its own.
A run that diverges hides all others. Information, of which nothing is wrong, is given where no
warning is; that on few test rows stands beside warnings too, whose scores it is about.

All figures come from `results.json` and the lines of `metrics.jsonl`. The limits are the constants
of the files here; they are set so that a healthy run of any method has no warning.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from jcl.reports.doctor import forgetting, guessing, learning, past, penalties
from jcl.reports.doctor.finding import WORKDIR, Finding, Findings, Run
from jcl.reports.formatting import flatten
from jcl.reports.results import Results, is_number
from jcl.types import Json

__all__ = ['CHECKS', 'Finding', 'Findings', 'findings', 'not_repeated']

Check = Callable[[Run], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
  learning.diverged, guessing.few_rows, learning.refused, learning.curves, learning.not_learned,
  penalties.penalties, penalties.penalty_alone, past.buffer, past.pseudo_samples, past.replay,
  learning.clipped, learning.invalid, learning.drift, forgetting.not_held, forgetting.lower_bound,
)  # fmt: skip
UNLEARNED = ('loss stays up', 'loss does not fall', 'loss still falls', 'not learned')
LOST = (*UNLEARNED, 'clipped', 'invalid answers')  # consequences of steps of a wrong size
HIDES: dict[str, Sequence[str]] = {  # finding -> those that may be its consequences
  'steps not applied': ('loss rises', *LOST, 'drift from the base model'),
  'loss rises': (*LOST, 'drift from the base model'),
  'penalty drowns the loss': (*LOST, 'a penalty alone'),
  'loss stays up': (*LOST[1:], 'drift from the base model'),
  'loss does not fall': ('not learned', 'loss still falls', 'clipped', 'invalid answers'),
  'loss still falls': ('not learned', 'clipped', 'invalid answers'),
  'not learned': ('clipped', 'invalid answers'),
  'a penalty alone': ('penalty not felt',),
  'tasks not in the buffer': ('little replay', 'less replay than asked'),
  'pseudo samples rejected': ('pseudo samples alike', 'little replay', 'less replay than asked'),
  'less replay than asked': ('little replay',),
}
FORGETS = 'forgets all the same'
ALWAYS = 'few test rows'  # information that stands beside warnings
CAUSES = (  # of forgetting, whose findings stand in place of it
  *HIDES, 'penalty not felt', 'little replay', 'a young buffer', 'an old buffer',
  'pseudo samples alike', 'pseudo samples without a label', 'tasks not written', 'clipped',
)  # fmt: skip

REPEATED = {  # words of a run's warning -> findings that say the same of the whole run
  'drawn samples well formed': ('pseudo samples rejected',),
  'of a uniform guess': ('diverged', 'loss rises', 'steps not applied'),
}


def not_repeated(warnings: Sequence[str], found: Sequence[Finding]) -> list[str]:
  """Returns the warnings of a run that no finding says again."""
  names = {one.name for one in found}
  covered = [words for words, of in REPEATED.items() if names.intersection(of)]
  return [line for line in warnings if not any(words in line for words in covered)]


def findings(results: Results, lines: Sequence[Json] = (), workdir: str = WORKDIR) -> Findings:
  """Returns the findings on a run, in the order of `CHECKS`, without consequences of others.

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
  return Findings(_causes([found for check in CHECKS for found in check(run)]))


def _causes(found: Sequence[Finding]) -> list[Finding]:
  """Returns the findings that no other one hides."""
  warnings = [one for one in found if one.kind == 'warning']
  if not warnings:
    return list(found)
  if warnings[0].name == 'diverged':
    return warnings[:1]
  hidden = {name for one in warnings for name in HIDES.get(one.name, ())}
  hidden |= {FORGETS} if any(one.name in CAUSES for one in warnings) else set()
  shown = [one for one in found if one.kind == 'warning' or one.name == ALWAYS]
  return [one for one in shown if one.name not in hidden]
