"""Where rows stand in the lines of a packed batch: first-fit decreasing."""

from collections.abc import Sequence

WIDE = 256  # D: a step of a narrower model takes about as long whatever its tokens


def mode(asked: str, packs: bool, width: int) -> str:
  """Returns how the rows of a model may be packed: `on`, `off`, or `auto`, where it pays.

  Args:
    asked: `train.packing`. With `auto` a model narrower than `WIDE` is not packed: to compile for
      the shapes of packed batches takes longer than its steps.
    packs: whether the model's attention keeps rows of a line apart.
    width: D of the model.
  """
  return 'off' if not packs or (asked == 'auto' and width < WIDE) else asked


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
