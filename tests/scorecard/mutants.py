"""Broken versions of the code: each must turn a cell red by a wrong figure.

A mutant replaces a text that stands exactly once in a file of `jcl/`. It runs the cells that it
concerns and no others; one that no longer fits the code is a failure of its own.
"""

from scorecard.drawn_mutants import DRAWN
from scorecard.method_mutants import (
  AVERAGES,
  FREEZING,
  KNOBS,
  METHODS,
  PARTS,
  PAST,
  SHELLS,
  SUBSPACES,
  TAUGHT,
)  # fmt: skip
from scorecard.mutant import Mutant
from scorecard.solved_mutants import CHOSEN, SOLVED
from scorecard.step_mutants import DIRECTIONS, HEADS, LOSSES, ROWS, STEP, TERMS

MUTANTS: tuple[Mutant, ...] = (
  *ROWS, *HEADS, *LOSSES, *STEP, *DIRECTIONS, *TERMS, *PAST, *METHODS, *FREEZING, *AVERAGES, *KNOBS,
  *SOLVED, *CHOSEN, *SUBSPACES, *TAUGHT, *DRAWN, *SHELLS, *PARTS,
)  # fmt: skip
