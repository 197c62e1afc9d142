"""Which cells say "does not apply", and why: the only place, and every line of it is asserted.

A line holds where the case lacks what the check looks at; one for a cell that could run is red, and
so is a cell that could not run and has no line. '*' is every method. A method from another package
has no lines: of its cells those that could not run say `OUTSIDE`.

No line takes a method out of the finite differences: what `combine` makes is the gradient of no
objective, so they are taken of the objective whose groups it combines, and the combined direction
has an oracle of its own (column `combine`).
"""

from jcl.methods import BUILT_IN

ALL_BUT = 'all but '
LINES: tuple[tuple[str, str, str], ...] = (
  (
    'teacher',
    'all but seq_star derpp cls_er distill lamol_kd l2kd sdft',
    'no term of data looks at a teacher',
  ),
  ('fisher', 'all but ewc mas', 'it does not measure what its parameters matter to'),
  ('average', 'all but ema cls_er slao', 'it evaluates no average of what it trained'),
  ('freeze', 'all but seq_star', 'it freezes nothing within a task'),
  ('subspace', 'all but osft', 'all directions of its projections train'),
  ('solved', 'all but closed_form', 'it trains its head, if it has one'),
  ('traces', 'closed_form', 'it takes no step'),
  ('drawn', 'all but sdft', 'it draws no rows before an epoch'),
  ('taught', 'all but l2kd', 'no teacher learns a task apart'),
  ('kd', 'all but distill lamol_kd l2kd', 'it does not distil'),
  ('expansion', 'all but expand', 'it adds no blocks'),
  ('combine', 'all but agem', 'it follows the gradient of its objective and combines none'),
  ('neutral', 'seq_star', 'classes of later tasks are in its softmax'),
  ('head', 'lamol lamol_kd l2kd sdft', 'it writes its answers'),
  ('head', 'pretrain', 'raw text has no classes'),
  ('shared_classes', 'lamol lamol_kd l2kd sdft', 'it writes its answers'),
  ('shared_classes', 'pretrain', 'raw text has no classes'),
  ('split', 'maml', 'it wraps the objective and refuses accumulation before anything is compiled'),
  ('composed', 'joint single', 'it trains fresh models and cannot be composed'),
  ('composed', 'closed_form', 'it takes no step and cannot be composed'),
  ('orders', 'closed_form', 'it takes no step and cannot be composed'),
  ('orders', 'joint single', 'it trains fresh models and cannot be composed'),
  (
    'composed',
    'lora olora slao expand',
    'it adds to the tree of parameters, of which a penalty keeps a copy',
  ),
  ('project', '*', 'the projection is of the step: checked once, in the last row'),
  ('masked', '*', 'masks are of the step: checked once, with MAML, in the last row'),
  ('reservoir', '*', 'the buffer is of no method: checked once, in the last row'),
  ('quota', '*', 'places in the buffer are of no method: checked once, in the last row'),
  ('dft', '*', 'weighed targets are of every loss: checked once, in the last row'),
  ('self_taught', '*', 'of sdft with other settings: checked once, in the last row'),
  ('anchor', '*', 'of distill with another anchor: checked once, in the last row'),
  ('own_answers', '*', 'of replay with own answers: checked once, in the last row'),
  ('corpus', '*', 'of replay with general text: checked once, in the last row'),
  ('chosen_state', '*', 'of closed_form with choose_state: checked once, in the last row'),
  ('chosen_on_devices', '*', 'of closed_form with choose_state: checked once, in the last row'),
  ('terms', '*', 'norms of terms are of the step: checked once, in the last row'),
  ('merges', '*', 'merges are of no method: checked once, in the last row'),
)

OUTSIDE = 'it lacks what this column looks at (docs/extending.md, Check it)'


def _named(names: str) -> list[str]:
  """Returns the methods of a line, which may name those that it is not of."""
  given = names.removeprefix(ALL_BUT).split()
  return [name for name in BUILT_IN if name not in given] if names.startswith(ALL_BUT) else given


DOES_NOT_APPLY: dict[tuple[str, str], str] = {
  (check, name): reason for check, names, reason in LINES for name in _named(names)
}
