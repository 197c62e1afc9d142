"""A benchmark under way: its contenders, and how they are checked and timed on a lesson."""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from jcl.batching.batch import Row
from jcl.benchmarks import machine, timing
from jcl.benchmarks.setting import Setting
from jcl.benchmarks.timing import Case, Work
from jcl.benchmarks.work import Contender, Learner, Lesson, check_same, tolerance
from jcl.errors import count_of
from jcl.training.experiment import Experiment


@dataclasses.dataclass
class Bench:
  """The contenders of a benchmark and the setting in which a workload is measured.

  Attributes:
    setting: data, model and weights.
    contenders: jcl first.
    folder: empty, for files that are removed at the end.
    rate: operations a second of the matmuls of the model.
    say: takes a line for the user.
    others: parts of other runs on the same model, which contenders know by their identity.
  """

  setting: Setting
  contenders: Sequence[Contender]
  folder: pathlib.Path
  rate: float
  say: Callable[[str], None]
  others: list[Experiment] = dataclasses.field(default_factory=list)

  def __post_init__(self):
    self._numbers = itertools.count()

  @property
  def rounds(self) -> int:
    """How often each contender does a piece of work."""
    return self.setting.request.rounds

  @property
  def tolerance(self) -> float:
    """The relative difference that two right programs may show on the model."""
    shape = self.setting.parts.decoder_config
    return tolerance(shape.width, shape.layers, shape.dtype, jax.default_backend())

  def new_folder(self) -> pathlib.Path:
    """Returns a new empty folder."""
    made = self.folder / str(next(self._numbers))
    made.mkdir()
    return made

  def alternate(
    self, name: str, works: Mapping[str, Work], most: int | None = None
  ) -> dict[str, list[float]]:
    """Lets contenders take turns -> {contender: seconds a unit, one number a round}.

    Args:
      name: of the case.
      works: the work of each contender.
      most: rounds at most; None: those of the request.
    """
    rounds = self.rounds if most is None else min(self.rounds, most)
    self.say(f'{name}: {", ".join(works)}, {count_of(rounds, "round")}')
    return timing.alternate(works, rounds)

  @contextlib.contextmanager
  def learners(self, lesson: Lesson, warm: bool = True) -> Iterator[dict[str, Learner]]:
    """Yields the contenders on a lesson, after all have shown the same loss on its rows.

    Args:
      lesson: what is learned.
      warm: make them ready to be timed.

    Raises:
      UserError: one shows another loss or gradient norm.
    """
    learners = {c.name: c.learner(lesson) for c in self.contenders}
    try:
      for learner in learners.values():
        learner.teach()
      shown = {name: learner.show() for name, learner in learners.items()}
      check_same(shown, self.tolerance)
      self.say('loss of a step: ' + ', '.join(f'{k} {s.loss:.6f}' for k, s in shown.items()))
      for learner in learners.values() if warm else ():
        learner.warm()
      yield learners
    finally:
      for learner in learners.values():
        learner.close()

  def steps(self, name: str, learners: Mapping[str, Learner], lesson: Lesson) -> Case:
    """Times the steps of a lesson.

    Args:
      name: of the case.
      learners: the contenders on it.
      lesson: what is learned; it has a round's steps for every round.
    """
    count = self.setting.request.steps
    works = {key: _taking(learner, count) for key, learner in learners.items()}
    seconds = self.alternate(name, works)
    return Case(name, 'step', seconds, self._facts(lesson, seconds))

  def _facts(self, lesson: Lesson, seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Returns means over the steps, tokens a second and the share of the matmul rate."""
    of_mean = lambda count: sum(map(count, lesson.steps)) / len(lesson.steps)
    tokens = of_mean(lambda rows: sum(len(row.tokens) for row in rows))
    operations = of_mean(
      lambda rows: machine.step_operations(lesson.parts, self.setting.params, rows)
    )
    facts = {'rows': of_mean(len), 'tokens': tokens, 'operations': operations}
    facts['targets'] = of_mean(_targets)
    for name in seconds:
      median = Case('', '', dict(seconds)).median(name)
      facts[f'{name}: tokens a second'] = tokens / median
      facts[f'{name}: share of the matmul rate'] = operations / median / self.rate
    return facts


def _targets(rows: Sequence[Row]) -> int:
  """Returns the number of targets of some rows."""
  return sum(len(row.targets) for row in rows)


def _taking(learner: Learner, count: int) -> Work:
  """Returns the work of taking `count` steps."""
  return lambda: learner.train(count)
