"""Broken heads that are solved, and broken choices of the state that they read."""

from scorecard.mutant import Mutant
from scorecard.mutant import cells as _cells

SOLVED = (
  Mutant(
    'a head is solved from its own task alone', 'methods/closed_form.py',
    "start = class_sums.unpacked(memory['sums'])",
    "start = class_sums.unpacked({k: 0 * x for k, x in memory['sums'].items()})",
    _cells('solved/closed_form'),
  ),
  Mutant(
    'the scatter is around the mean of all rows', 'memory/class_sums.py',
    '(mean_PK * count_C[seen]) @ mean_PK.T',
    'np.outer(total_PC.sum(1), total_PC.sum(1)) / rows',
    _cells('solved/closed_form'),
  ),
  Mutant(
    'all classes are equally likely', 'memory/class_sums.py',
    '+ np.log(count_C[seen] / rows)', '- np.log(seen.sum())',
    _cells('solved/closed_form'),
  ),
)  # fmt: skip

CHOICE, STATE = 'memory/state_choice.py', _cells('chosen_state/(shared)')
CHOSEN = (
  Mutant(
    'the rows held out train the heads', CHOICE,
    'order_F = order_F[~held_N[order_F]]', 'order_F = order_F[:]',
    STATE,
  ),
  Mutant(
    'all rows of a class are drawn', CHOICE,
    '[:SHOTS] for c in', 'for c in',
    STATE,
  ),
  Mutant(
    'every draw has the same rows', CHOICE,
    'mark(row.tokens, i) for row in rows', 'mark(row.tokens, 0) for row in rows',
    STATE,
  ),
  Mutant(
    'states are compared as they are', CHOICE,
    'standardised(np.asarray(states_ND, np.float64)), label_N',
    'np.asarray(states_ND, np.float64), label_N',
    STATE,
  ),
  Mutant(
    'the mean over blocks leaves out their input', CHOICE,
    'first = 0 if candidate.mean', 'first = 1 if candidate.mean',
    STATE,
  ),
  Mutant(
    'a margin is of any class', CHOICE,
    '    logits_HC[at] = -np.inf\n', '',
    STATE,
  ),
  Mutant(
    'heads of a candidate have no ridge', CHOICE,
    '+= STRENGTH * np.trace(kernel_FF)', '+= 1e-6 * np.trace(kernel_FF)',
    STATE,
  ),
  Mutant(
    'the narrowest margin is the best', CHOICE,
    'key=lambda one: (one.accuracy, one.margin)', 'key=lambda one: (one.accuracy, -one.margin)',
    STATE,
  ),
  Mutant(
    'the last of equals is taken', CHOICE,
    'return max(found, key', 'return max(reversed(found), key',
    STATE,
  ),
  Mutant(
    'training rows are held out beside dev rows', CHOICE,
    '    if not dev:\n', '    if True:\n',
    STATE,
  ),
  Mutant(
    'blocks behind the best state stay', CHOICE,
    "[: one.blocks + 1].astype(params['head']['mix'].dtype)\n"
    "    own = jax.tree.map(lambda leaf: leaf[: one.blocks], params['layers'])",
    ".astype(params['head']['mix'].dtype)\n    own = params['layers']",
    STATE,
  ),
  Mutant(
    'the head reads the last state', CHOICE,
    "'mix': mix_LQ}}, one._asdict()",
    "'mix': params['head']['mix'][layers - one.blocks :]}}, one._asdict()",
    STATE,
  ),
  Mutant(
    'every device gives the rows of the first', 'training/hook_tools.py',
    'at = block * shape.targets', 'at = 0 * shape.targets',
    _cells('chosen_on_devices/(shared)'),
  ),
)  # fmt: skip
