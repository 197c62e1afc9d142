"""Which cells say "does not apply", and why: the only place, and every line of it is asserted.

A line holds where the case lacks what the check looks at; one for a cell that could run is red, and
so is a cell that could not run and has no line. '*' is every method. A method from another package
has no lines: of its cells those that could not run say `OUTSIDE`.

No line takes a method out of the finite differences: what `combine` makes is the gradient of no
objective, so they are taken of the objective whose groups it combines, and the combined direction
has an oracle of its own (column `combine`).
"""

LINES: tuple[tuple[str, str, str], ...] = (
  (
    'teacher',
    'seq joint single replay agem lamol pretrain lora olora expand reptile ema maml ewc l2 mas',
    'no term of data looks at a teacher',
  ),
  (
    'fisher',
    'seq joint single replay derpp agem cls_er distill lamol lamol_kd pretrain lora olora expand '
    'reptile ema maml l2',
    'it does not measure what its parameters matter to',
  ),
  (
    'average',
    'seq joint single replay derpp agem distill lamol lamol_kd pretrain lora olora expand reptile '
    'maml ewc l2 mas',
    'it evaluates no moving average',
  ),
  (
    'kd',
    'seq joint single replay derpp agem cls_er lamol pretrain lora olora expand reptile ema maml '
    'ewc l2 mas',
    'it does not distil',
  ),
  ('head', 'lamol lamol_kd', 'it writes its answers'),
  ('head', 'pretrain', 'raw text has no classes'),
  ('shared_classes', 'lamol lamol_kd', 'it writes its answers'),
  ('shared_classes', 'pretrain', 'raw text has no classes'),
  ('split', 'maml', 'it wraps the objective and refuses accumulation before anything is compiled'),
  ('composed', 'joint single', 'it trains fresh models and cannot be composed'),
  ('orders', 'joint single', 'it trains fresh models and cannot be composed'),
  (
    'composed',
    'lora olora expand',
    'it adds to the tree of parameters, of which a penalty keeps a copy',
  ),
  (
    'expansion',
    'seq joint single replay derpp agem cls_er distill lamol lamol_kd pretrain lora olora reptile '
    'ema maml ewc l2 mas',
    'it adds no blocks',
  ),
  (
    'combine',
    'seq joint single replay derpp cls_er distill lamol lamol_kd pretrain lora olora expand '
    'reptile ema maml ewc l2 mas',
    'it follows the gradient of its objective and combines none',
  ),
  ('project', '*', 'the projection is of the step: checked once, in the last row'),
  ('masked', '*', 'masks are of the step: checked once, with MAML, in the last row'),
  ('reservoir', '*', 'the buffer is of no method: checked once, in the last row'),
  ('quota', '*', 'places in the buffer are of no method: checked once, in the last row'),
  ('merges', '*', 'merges are of no method: checked once, in the last row'),
)

OUTSIDE = 'it has not what this column looks at'

DOES_NOT_APPLY: dict[tuple[str, str], str] = {
  (check, name): reason for check, names, reason in LINES for name in names.split()
}
