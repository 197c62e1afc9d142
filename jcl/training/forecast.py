"""How long the rest of a run takes, by what it has taken so far."""

from collections.abc import Callable, Sequence

from jcl.streams.stream import Task
from jcl.training.experiment import Experiment
from jcl.training.run_output import RunOutput
from jcl.training.run_state import Run

PHASES = ('before_task', 'train', 'after_task', 'evaluate')
Later = Callable[[float], float | None]  # seconds of a step or chunk -> seconds of what follows


class Forecast:
  """Seconds of what a run does after the work that is shown.

  Tasks to come are taken to train as many steps an example as those before them, and each score and
  hook to cost what it has cost so far. What has not happened yet is not counted.

  Args:
    parts: of the run.
    output: whose clock and record say what was spent.
    now: the run at the beginning of the work that is shown.
  """

  def __init__(self, parts: Experiment, output: RunOutput, now: Run):
    self._tasks: Sequence[Task] = parts.stream.tasks
    self._output, self._now = output, now

  def after_training(self, task: Task, steps: int) -> Later:
    """Returns seconds a step -> seconds of what follows the training of a task.

    Args:
      task: the task.
      steps: of its training.
    """
    steps_an_example = steps / max(len(task.train), 1)
    steps_to_come = steps_an_example * self._examples(task.index + 1)
    rest = self._beside_training(task.index, task.index)
    return lambda each: each * steps_to_come + rest

  def after_fold(self, task: Task | None) -> Later:
    """Returns seconds a chunk -> seconds of what follows a fold; None while they are not known.

    Args:
      task: the task of the phase under way; None: there is none yet.
    """
    phase = PHASES[(self._now.done - 2) % len(PHASES)]
    if task is None or not self._output.counter.steps or phase == 'train':
      return lambda each: None
    trained = task.index + (phase != 'before_task')
    to_come = self._examples(trained)
    seconds = self._output.spent('train') * to_come / max(self._examples(0) - to_come, 1)
    seconds += self._beside_training(task.index, task.index + (phase == 'evaluate'))
    return lambda each: seconds

  def _examples(self, first: int) -> int:
    """Returns the number of training examples of the tasks from `first` on."""
    return sum(len(task.train) for task in self._tasks[first:])

  def _beside_training(self, finished: int, evaluated: int) -> float:
    """Returns the seconds of hooks and evaluations that are still to come.

    Args:
      finished: tasks that are done.
      evaluated: rows of the matrix that are taken or being taken, but for the one before training.
    """
    hooks = self._output.spent('memory', 'generate') / finished if finished else 0.0
    sizes = [len(task.test) for task in self._tasks]
    rows = [sum(sizes), *(sum(sizes[: i + 2]) for i in range(len(sizes)))]  # examples of each
    done, to_come = sum(rows[: evaluated + 1]), sum(rows[evaluated + 1 :])
    scores = self._output.spent('evaluate') * to_come / max(done, 1)
    return hooks * (len(sizes) - finished - 1) + scores
