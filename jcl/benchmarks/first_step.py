"""A fresh process of jcl: reads model and data and takes the first step of the second task.

    python -m jcl.benchmarks.first_step JOB.json NAME

`start` writes the job and takes the time from outside.
"""

import json
import pathlib
import sys

from jcl.benchmarks import RATE
from jcl.benchmarks.request import Request
from jcl.benchmarks.setting import configured
from jcl.step.numerics import computing
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader
from jcl.training.step_inputs import inputs_on_devices


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
  inputs = inputs_on_devices(parts, params, memory['teacher'], plan)
  batches = loader.batches()
  _, metrics = inputs.after(parts.train_step(), RATE, next(batches).batch)
  loss = float(metrics['loss'])
  batches.close()
  return loss


if __name__ == '__main__':
  print(take(json.loads(pathlib.Path(sys.argv[1]).read_text())))
