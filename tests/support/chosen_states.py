"""A closed-form head whose state is chosen, after three tasks: python -m support.chosen_states

Prints JSON of what it is on one device and on eight, in a process of its own with 8 fake devices.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from jcl import methods
from jcl.backbones.decoder import decoder
from jcl.step import sharding
from jcl.training.hook_tools import HookTools, make_tools
from jcl.types import Memory, Params
from support import tiny


def chosen(
  devices: int = 1, order: Sequence[int] = (0, 1, 2), dev: bool = True, **fields: object
) -> tuple[Params, Memory, HookTools]:
  """Parameters and memory after the tasks in an order, and the tools with what was reported."""
  settings = methods.settings('closed_form')
  for name, value in {'solver': 'lda', 'choose_state': True, **fields}.items():
    setattr(settings, name, value)
  deep = dataclasses.replace(tiny.CONFIG, classes=6, layers=3, mixed=True, pooling='mean')
  make = lambda rows: decoder(dataclasses.replace(deep, vocabulary=rows, rows=rows))
  tools = tiny.tools('class', make=make, examples=12)
  if not dev:
    tasks = [dataclasses.replace(task, dev=()) for task in tools.stream.tasks]
    tools = dataclasses.replace(tools, stream=dataclasses.replace(tools.stream, tasks=tuple(tasks)))
  if devices > 1:
    rest = tools.backbone, tools.text, tools.stream, sharding.make_mesh(devices), 0, 8
    tools = make_tools(*rest)
  tools = dataclasses.replace(tools, membership=tiny.OWN, task_index=2)
  method, params = methods.make(tools.backbone, settings), tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  for index in order:
    task = tools.stream.tasks[index]
    for hook in (method.before_task, method.after_task):
      memory, params = hook(memory, params, task, tools)
      tools.folds.forget()
  return params, memory, tools


def told(devices: int) -> dict[str, object]:
  """The choice that is made on some devices, and the kernel of the head."""
  params, memory, tools = chosen(devices)
  kernel = np.asarray(params['head']['kernel'], np.float64).tolist()
  return {'state': memory['state'], 'kernel': kernel, 'tried': tools.reports['state'][0]['tried']}


if __name__ == '__main__':
  print(json.dumps([told(1), told(8)]))
