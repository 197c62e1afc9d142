"""A fresh process of torch: tokenises the texts, reads the model and takes one step.

    python -m jcl.benchmarks.torch_first_step JOB.json torch|torch-tuned

`start` writes the job and takes the time from outside. jax is not imported here. The step is
eager in both loops: compiling never pays within one step.
"""

import json
import pathlib
import sys
import types
from typing import Any

import torch
import transformers

from jcl.benchmarks.torch_model import adamw, load, precision
from jcl.benchmarks.torch_plain import Plain
from jcl.benchmarks.torch_tuned import Tuned


def take(job: dict, name: str) -> float:
  """Returns the objective of the first step.

  Args:
    job: see `start`.
    name: of the contender.
  """
  tokenizer = transformers.AutoTokenizer.from_pretrained(job['model'], trust_remote_code=False)
  tokenizer(job['texts'])
  place = torch.device(job['place'])
  model = load(pathlib.Path(job['model']), place).requires_grad_(True)
  rest = job['weights'], 1.0, job['outputs'], place
  objective = Tuned(*rest) if name == 'torch-tuned' else Plain(job['longest'], *rest)
  optimizer = adamw(model, 0.0, 0.999, fused=name == 'torch-tuned')
  rows: list[Any] = [types.SimpleNamespace(**row, replay=False) for row in job['rows']]
  with precision(job['dtype'], place):
    loss = objective.loss(model, None, rows)
  loss.backward()
  torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
  optimizer.step()
  return loss.item()


if __name__ == '__main__':
  print(take(json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2]))
