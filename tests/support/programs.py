"""What the train step of each method is made of, lowered and not compiled: programs.json keeps it.

    python -m support.programs          prints what differs from the file, in the folder tests
    python -m support.programs --write  writes this jax's part of the file anew

A change of the code that changes a program is so seen in the diff of the file, method by method.
"""

import collections
import json
import math
import re
import sys
from typing import Any

import jax

from jcl import methods
from jcl.config import Config
from jcl.preflight import first_step
from jcl.step import flops, sharding
from support import TESTS, runs

STEPPING = [name for name in methods.BUILT_IN if methods.settings(name).takes_steps]
FILE = TESTS / 'goldens' / 'programs.json'
DEVICES = 8
OPERATION = re.compile(r'\b(?:stablehlo|chlo|sdy)\.(\w+)')
SENDS = ('all_reduce', 'all_gather', 'reduce_scatter', 'all_to_all', 'collective_permute')


def config(method: str) -> Config:
  """A run whose parameters are sharded over the devices, so that its step has every collective."""
  return runs.config(method, stream={'max_tasks': 2, 'max_train_per_task': 4}, train={'fsdp': True})


def program(method: str) -> dict[str, Any]:
  """Returns how many operations the step of a method has, by kind, and what it costs.

  An operation inside a loop or a function that is called is counted once; `flops` counts every
  turn, on one device.
  """
  now = first_step.outline(config(method), sharding.make_mesh(DEVICES))
  step = now.parts.train_step()
  lowered = step.lower(*now.arguments)
  counts = collections.Counter(OPERATION.findall(lowered.as_text()))
  donated = [x for x in jax.tree.leaves(lowered.args_info) if x.donated]
  counted = flops.count(step, *now.arguments)
  return {
    'operations': sum(counts.values()),
    'dot_general': counts['dot_general'],
    'while': counts['while'],
    'collectives': {name: counts[name] for name in SENDS if counts[name]},
    'flops': round(counted.mapped + counted.whole),
    'donated_bytes': sum(math.prod(x.shape) * x.dtype.itemsize for x in donated),
  }


def kept() -> dict[str, dict[str, Any]]:
  """Returns what the file has of this jax, by method; empty: nothing."""
  return json.loads(FILE.read_text()).get(jax.__version__, {}) if FILE.exists() else {}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
  """Returns a line for each figure of a program that is another one."""
  return [
    f'{name}: {wanted.get(name)} in the file, now {found.get(name)}'
    for name in dict.fromkeys([*wanted, *found])
    if found.get(name) != wanted.get(name)
  ]


def main(write: bool) -> None:
  """Prints what differs from the file, or writes it."""
  found = {method: program(method) for method in STEPPING}
  for method, one in found.items():
    for line in differences(one, kept().get(method, {})):
      print(f'{method}: {line}')
  if write:
    every = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps(every | {jax.__version__: found}, indent=1) + '\n')


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', DEVICES)
  if sys.argv[1:] == ['--json']:
    print(json.dumps({method: program(method) for method in STEPPING}))
  else:
    main(sys.argv[1:] == ['--write'])
