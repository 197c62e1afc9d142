"""Which cells say "does not apply", and why: the only place, and every line of it is asserted.

A line holds where the case lacks what the check looks at; one for a cell that could run is red, and
so is a cell that could not run and has no line. '*' is every method.
"""

TEACHER = 'no term of data looks at a teacher'
FISHER = 'it does not measure what its parameters matter to'
TEMPERATURE = 'it does not distil'
WRITES = 'it writes its answers'
FRESH = 'it trains fresh models and cannot be composed'
TREE = 'it adds to the tree of parameters, of which a penalty keeps a copy'
GROWS = 'it adds no blocks'
ACCUMULATION = 'it wraps the objective and refuses accumulation before anything is compiled'

DOES_NOT_APPLY: dict[tuple[str, str], str] = {
  **{
    ('teacher', name): TEACHER
    for name in (
      'seq', 'joint', 'single', 'replay', 'lamol', 'lora', 'olora', 'expand', 'reptile', 'maml',
      'ewc', 'l2', 'mas',
    )
  },
  **{
    ('fisher', name): FISHER
    for name in (
      'seq', 'joint', 'single', 'replay', 'derpp', 'distill', 'lamol', 'lamol_kd', 'lora',
      'olora', 'expand', 'reptile', 'maml', 'l2',
    )
  },
  **{
    ('kd', name): TEMPERATURE
    for name in (
      'seq', 'joint', 'single', 'replay', 'derpp', 'lamol', 'lora', 'olora', 'expand', 'reptile',
      'maml', 'ewc', 'l2', 'mas',
    )
  },
  **{('composed', name): FRESH for name in ('joint', 'single')},
  **{('composed', name): TREE for name in ('lora', 'olora', 'expand')},
  **{
    ('expansion', name): GROWS
    for name in (
      'seq', 'joint', 'single', 'replay', 'derpp', 'distill', 'lamol', 'lamol_kd', 'lora', 'olora',
      'reptile', 'maml', 'ewc', 'l2', 'mas',
    )
  },
  ('split', 'maml'): ACCUMULATION,
  ('head', 'lamol'): WRITES,
  ('head', 'lamol_kd'): WRITES,
  ('reservoir', '*'): 'the buffer is of no method: checked once, in the last row',
  ('quota', '*'): 'places in the buffer are of no method: checked once, in the last row',
  ('merges', '*'): 'merges are of no method: checked once, in the last row',
}  # fmt: skip
