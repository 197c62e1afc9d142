"""A fresh process of jcl: reads model and data and takes the first step of the second task.

    python -m jcl.benchmarks.first_step JOB.json NAME

`start` writes the job and takes the time from outside.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from jcl.benchmarks import RATE
from jcl.benchmarks.request import Request
from jcl.benchmarks.setting import configured
from jcl.step.numerics import computing
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader
from jcl.training.step_inputs import place_on_devices, step_inputs


@computing
def take(job: dict) -> float:
  """Returns the objective of the first step.

  Args:
    job: see `start`.
  """
  request = Request(
    (), model=job['model'], data=job['data'], batch_size=job['batch_size'], dtype=job['dtype'],
    seed=job['seed'],
  )  # fmt: skip
  parts = experiment.assemble(configured(request))
  params = parts.initial_params()
  task = parts.stream.tasks[1]
  memory = parts.method.init(params, parts.stream, parts.tools)
  plan = parts.method.plan(memory, task)
  loader = BatchLoader(plan, 1, parts.tools.at(1), parts.config.train)
  start = jax.jit(parts.optimizer().init)
  inputs = step_inputs(parts, params, memory['teacher'], plan, place_on_devices(parts), start)
  batches = loader.batches()
  _, metrics = parts.train_step()(
    inputs.state, inputs.fixed, inputs.weights, np.float32(RATE), next(batches).batch, inputs.groups
  )
  loss = float(metrics['loss'])
  batches.close()
  return loss


if __name__ == '__main__':
  print(take(json.loads(pathlib.Path(sys.argv[1]).read_text())))
