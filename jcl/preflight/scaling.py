"""How a run's step scales with the number of devices: from the compiled program, on paper.

The step is compiled for each number of devices, and its memory, operations and collectives are
counted. Of a device's rate and its links the time of a step follows by two sums: what is computed
and what is sent one after the other, or both at once. A real step lies between them, as long as
the devices are alike and no link is shared.
"""

import dataclasses
import math
from collections.abc import Sequence

from jcl.config import Config
from jcl.errors import UserError, count_of
from jcl.preflight import collectives, cost, first_step
from jcl.preflight.footprint import short
from jcl.preflight.page import Section
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.storage.progress import watched
from jcl.types import Json


@dataclasses.dataclass(frozen=True)
class Speeds:
  """Rates of computing and sending that a prediction takes for granted.

  Attributes:
    rate: floating-point operations a second that a device reaches in a step.
    links: bytes a second that a device sends, one prediction each.
  """

  rate: float
  links: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Point:
  """A step on some number of devices.

  Attributes:
    devices: their number.
    bytes: that each holds while the step runs.
    flops: that each computes, padding included.
    collectives: what the step sends, by kind.
  """

  devices: int
  bytes: int
  flops: float
  collectives: dict[str, collectives.Collective]

  @property
  def sent(self) -> float:
    """Bytes that each device sends in a step."""
    return math.fsum(kind.sent for kind in self.collectives.values())

  def seconds(self, rate: float, link: float) -> tuple[float, float]:
    """Returns the time of a step that sends while it computes, and of one that does not."""
    computes, sends = self.flops / rate, self.sent / link
    return max(computes, sends), computes + sends


def doubling(most: int) -> tuple[int, ...]:
  """Returns 1, 2, 4, … up to `most`."""
  return tuple(2**power for power in range(most.bit_length()))


@computing
def page(config: Config, most: int, tokens: int, targets: int, speeds: Speeds) -> list[Section]:
  """Returns the sections of a plan with --scaling.

  Args:
    config: of the run.
    most: devices; as many must exist, as fake CPU devices.
    tokens: a row; 0: those of the stream's largest batch.
    targets: a row, with `tokens`; 0: every token is one.
    speeds: of the devices and their links.

  Raises:
    UserError: for settings or files that cannot be used, or a stream that cannot be learned.
  """
  tensor = config.train.tensor
  numbers = [count for count in doubling(most) if count % tensor == 0]
  if not numbers:
    raise UserError(
      f'train.tensor is {tensor}, which divides none of 1, 2, 4, … {most} devices; '
      'give a power of two'
    )
  parts = first_step.assembled(config, sharding.make_mesh(numbers[0], tensor), tokens)
  first = first_step.outline_of(parts, tokens, targets)
  points = [point(first)]
  for devices in watched(numbers[1:], 'numbers of devices'):
    tools = dataclasses.replace(parts.tools, mesh=sharding.make_mesh(devices, tensor))
    now = first_step.outline_of(dataclasses.replace(parts, tools=tools), tokens, targets)
    points.append(point(now))
  made = section(points, speeds, config.train.batch_size)
  if first.parts.decoder_config.dtype != 'float32':
    note = (
      "XLA's CPU compiler, which compiles here, sends bfloat16 as float32: elsewhere layers that "
      'are sharded take half as much to gather'
    )
    made = dataclasses.replace(made, notes=[*made.notes, note])
  return [cost.assumed(first), made]


def point(now: first_step.Outline) -> Point:
  """Compiles a step and counts what it holds, computes and sends."""
  return Point(
    now.parts.tools.mesh.size,
    cost.memory(now).values['per_device']['total'],
    cost.operations(now).values['per_device']['total'],
    collectives.count(now.compiled.as_text() or ''),
  )


def section(points: Sequence[Point], speeds: Speeds, batch_size: int) -> Section:
  """Section: bytes, operations, bytes sent and efficiency by the number of devices.

  Args:
    points: one a number of devices, the smallest first.
    speeds: of the devices and their links.
    batch_size: examples of a step on all devices together.
  """
  alone = points[0].devices * points[0].flops / speeds.rate
  values: list[Json] = []
  rows = [['devices', 'bytes on each', 'FLOP on each', 'sent by each',
           *(f'at {short(link, "B/s")}' for link in speeds.links)]]  # fmt: skip
  for now in points:
    ways = [now.seconds(speeds.rate, link) for link in speeds.links]
    shares = [[alone / (now.devices * seconds) for seconds in both] for both in ways]
    values.append({
      'devices': now.devices, 'bytes': now.bytes, 'flops': now.flops, 'sent': now.sent,
      'collectives': {name: kind._asdict() for name, kind in now.collectives.items()},
      'efficiency': [
        {'link': link, 'one_after_the_other': apart, 'at_once': together}
        for link, (together, apart) in zip(speeds.links, shares, strict=True)
      ],
    })  # fmt: skip
    cells = [f'{apart:.0%} to {together:.0%}' for together, apart in shares]
    units = short(now.bytes, 'B'), short(now.flops, 'FLOP'), short(now.sent, 'B')
    rows.append([str(now.devices), *units, *cells])
  first = points[0].devices
  time = 'the time of one device' if first == 1 else f'{first} × the time of {first} devices'
  notes = [
    f'efficiency: {time} / (devices × time), for the same '
    f'{count_of(batch_size, "example")} a step on all devices together; it falls where a '
    'device has few rows, so ask with the train.batch_size of the run',
    f'a device computes {short(speeds.rate, "FLOP/s")} (--device_rate) and sends at the speed of '
    'the column (--links): first what is computed and what is sent one after the other, then both '
    'at once',
    'sent: by a ring, from the collectives of the compiled program with every turn of its loops',
  ]
  return Section('scaling', 'scaling of a step', {'points': values}, rows, notes)
