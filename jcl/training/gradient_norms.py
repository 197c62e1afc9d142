"""How much each term of the loss has to say: the norm of its gradient, measured now and then."""

from collections.abc import Mapping

import jax
import numpy as np

from jcl.step.term_norms import make_term_norms
from jcl.streams.stream import Task
from jcl.training.batch_loader import LoadedBatch
from jcl.training.experiment import Experiment
from jcl.training.run_output import RunOutput
from jcl.training.step_inputs import StepInputs

FIRST = 10  # step whose gradients are measured, and others before and after it at equal distance
LONG = 1000  # steps of a task that are worth a program for every shape of its batches


class GradientNorms:
  """Measures the gradient of each term every `train.gradient_norms_every` steps of a task.

  One of these steps is the tenth, where a task is being learned, and the last is measured, too. The
  measure reads the parameters after the step and the batch of the step, and changes neither, so a
  run is the same with it and without.

  It costs a forward and a backward pass for each term whose weight and value are not 0, and nothing
  where fewer than two terms have them, since the whole gradient is then that of one term. Its
  seconds count as evaluation.

  Each shape of batch needs a program, which takes about as long to compile as the train step. So in
  a task of fewer than `LONG` steps a batch of a new shape is measured only where nothing else has
  been measured in the task. A run that goes on after a kill knows which shapes it has measured.

  Args:
    parts: of the run.
    output: where the norms go.
  """

  def __init__(self, parts: Experiment, output: RunOutput):
    self._output, self._every = output, parts.config.train.gradient_norms_every
    self._norms = None
    if self._every:
      self._norms = make_term_norms(parts.method, parts.loss_fn, parts.tools.mesh, **parts.how)

  def due(self, loaded: LoadedBatch) -> bool:
    """Whether norms are taken after a step."""
    return self._norms is not None and (
      loaded.last or (loaded.number + 1 - FIRST) % self._every == 0
    )

  def measure(
    self, task: Task, inputs: StepInputs, loaded: LoadedBatch, values: Mapping[str, float],
    steps: int,
  ) -> None:  # fmt: skip
    """Writes down the norm of weight · gradient of each term, unless one term alone has any.

    It does not where the batch has a new shape that is not worth a program, either.

    Args:
      task: the task under way.
      inputs: of the next step.
      loaded: the batch of the step that is done.
      values: {term: value} of that step.
      steps: of the task.
    """
    weights = {term: inputs.weights.get(term, np.float32(1)) for term in values}
    felt = {term: weights[term] if values[term] else np.float32(0) for term in values}
    if self._norms is None or np.count_nonzero([*felt.values()]) < 2:
      return
    record, shape = self._output.recorder, str(loaded.shape)
    if steps < LONG and record.has_norms(task) and not record.has_norms(task, shape):
      return
    record.took_norms(task, shape)
    with self._output.clock.of('evaluate'):
      state, teacher = inputs.state['params'], inputs.teacher
      found = jax.device_get(self._norms(state, inputs.fixed, teacher, felt, loaded.batch))
    norms = {term: float(found.get(term, 0.0)) for term in values}
    if np.isfinite([*norms.values()]).all():
      self._output.step({'task': task.index, 'step': loaded.number + 1, 'gradient_norms': norms})
