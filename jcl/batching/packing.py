"""Where rows stand in the lines of a packed batch: first-fit decreasing."""

from collections.abc import Sequence


def first_fit(lengths: Sequence[int], lines: int, tokens: int) -> list[tuple[int, int]] | None:
  """Returns (line, token of the line) at which each row starts; None where the rows do not fit.

  Rows are placed from the longest to the shortest, equal ones in their order, each in the first
  line that has room for it (Johnson 1973). The result depends on the lengths alone.

  Args:
    lengths: tokens of each row.
    lines: number of lines.
    tokens: places of a line.
  """
  starts: list[tuple[int, int]] = [(0, 0)] * len(lengths)
  filled = [0] * lines
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    room = tokens - lengths[i]
    for line, used in enumerate(filled):
      if used <= room:
        starts[i] = line, used
        filled[line] += lengths[i]
        break
    else:
      return None
  return starts
