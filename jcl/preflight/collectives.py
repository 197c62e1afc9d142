"""Counts the bytes that a compiled program sends between devices, with every turn of its loops.

XLA's own analysis has no figure for them. The text of the compiled program has each collective with
the shape of its result, and the number of turns of each loop whose number is known.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# What each device sends by a ring of n devices, for a result of B bytes on each of them. Of what
# starts and ends apart (`all-gather-start`) the start is counted.
SENT = {
  'all-reduce': lambda n, result: 2 * (n - 1) / n * result,
  'all-gather': lambda n, result: (n - 1) / n * result,
  'reduce-scatter': lambda n, result: (n - 1) * result,
  'all-to-all': lambda n, result: (n - 1) / n * result,
  'collective-permute': lambda n, result: result,
}
PRED_BITS = 8  # of a boolean, the one element type whose name has no bits
COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(')
_SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:to_apply|body|condition|calls|\w+_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUP = re.compile(r'replica_groups=\{\{([\d,]*)\}')
_GROUPS = re.compile(r'replica_groups=\[(\d+),(\d+)\]')
_MESH = re.compile(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}')
_DEVICES = re.compile(r'\b(?:num_partitions|replica_count)=(\d+)')


class Collective(NamedTuple):
  """One kind of collective of a program.

  Attributes:
    times: it is run in one call of the program.
    sent: bytes that each device sends in them, by a ring.
  """

  times: int
  sent: float


class _Line(NamedTuple):
  """An instruction that sends, or that runs another computation."""

  name: str
  text: str
  result: int


def count(text: str) -> dict[str, Collective]:
  """Returns the collectives of a compiled program by kind; a kind that it has not is left out.

  A loop whose number of turns is not known counts as one turn, of a conditional all branches.

  Args:
    text: of the compiled program, as `jax.stages.Compiled.as_text` gives it.
  """
  computations, entry = _computations(text)
  found: dict[str, Collective] = {}
  every = math.prod(map(int, _DEVICES.findall(text.split('\n', 1)[0])))
  for line, turns in _sends(computations, entry, 1):
    kind, before = line.name, found.get(line.name, Collective(0, 0.0))
    sent = turns * SENT[kind](_group_size(line.text, every), line.result)
    found[kind] = Collective(before.times + turns, before.sent + sent)
  return found


def _computations(text: str) -> tuple[dict[str, list[_Line]], str]:
  """Returns the lines that matter of each computation, and the name of the entry."""
  computations: dict[str, list[_Line]] = {}
  entry = name = ''
  for line in text.splitlines():
    if start := COMPUTATION.match(line):
      name = start[2]
      computations[name] = []
      entry = name if start[1] else entry
    elif instruction := _INSTRUCTION.match(line):
      result, operation = instruction[1], instruction[2].removesuffix('-start')
      if operation in SENT:
        # The start of an all-gather has its operand in its result beside what is gathered.
        apart = operation != instruction[2] and operation != 'all-reduce'
        sizes = [array_bytes(*shape) for shape in _SHAPE.findall(result)]
        computations[name].append(_Line(operation, line, max(sizes) if apart else sum(sizes)))
      elif _CALLED.search(line) or _BRANCHES.search(line):
        computations[name].append(_Line(operation, line, 0))
  return computations, entry


def _sends(
  computations: dict[str, list[_Line]], name: str, turns: int
) -> Iterator[tuple[_Line, int]]:
  """Yields each collective that a computation comes to, and how often."""
  for line in computations.get(name, []):
    if line.name in SENT:
      yield line, turns
      continue
    known = _TURNS.search(line.text) if line.name == 'while' else None
    more = turns * (int(known[1]) if known else 1)
    branches = _BRANCHES.search(line.text)
    called = [
      *_CALLED.findall(line.text),
      *re.findall(r'[\w.\-]+', branches[1] if branches else ''),
    ]
    for other in called:
      yield from _sends(computations, other, more)


def array_bytes(element: str, dimensions: str) -> int:
  """Returns the bytes of an array: `f32`, `16,32`."""
  digits = re.search(r'\d+', element)
  bits = PRED_BITS if element == 'pred' else int(digits[0]) if digits else 0
  return math.prod(map(int, filter(None, dimensions.split(',')))) * bits // 8


def _group_size(text: str, every: int) -> int:
  """Returns how many devices take part in a collective together; `every` where it names none."""
  if group := _GROUP.search(text):
    return len(group[1].split(','))
  if groups := _GROUPS.search(text):
    return int(groups[2])
  if mesh := _MESH.search(text):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
  return every
