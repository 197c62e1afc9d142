"""Contenders that do other work than jcl are found before anything is timed."""

import numpy as np
import pytest

from jcl.batching.batch import Row
from jcl.benchmarks.work import Lesson, Shown, check_near, check_same, tolerance
from jcl.errors import UserError
from jcl.streams.stream import TaskPlan


def test_the_same_within_rounding_passes():
  check_same({'jcl': Shown(4.0, 2.0), 'torch': Shown(4.0 + 1e-6, 2.0 - 1e-6)}, 1e-6)


@pytest.mark.parametrize(
  ('other', 'what'), [(Shown(4.1, 2.0), 'loss'), (Shown(4.0, 2.1), 'gradient norm')]
)
def test_another_loss_or_gradient_is_refused_by_name(other, what):
  with pytest.raises(UserError, match=f'torch-tuned shows the {what} .* nothing was timed'):
    check_same({'jcl': Shown(4.0, 2.0), 'torch-tuned': other}, 1e-4)


def test_a_number_that_is_none_is_refused():
  with pytest.raises(UserError, match='torch shows the loss nan'):
    check_near('loss', {'jcl': 1.0, 'torch': float('nan')}, 1e-4)


def test_the_tolerance_grows_as_the_root_of_the_sums_and_not_beyond_what_tells_programs_apart():
  assert tolerance(64, 4, 'float32') == pytest.approx(2 * tolerance(64, 1, 'float32'))
  assert tolerance(576, 30, 'float32') < 1e-3
  assert tolerance(576, 30, 'bfloat16') > tolerance(576, 30, 'float32')


def row(number, replay):
  return Row(np.arange(4), np.array([2]), np.array([3]), number, 0, replay)


def test_the_step_that_is_shown_has_old_and_new_rows():
  steps = [[row(0, False)], [row(1, True)], [row(2, False), row(3, True)]]
  lesson = Lesson(None, TaskPlan([]), 1, 1, steps, 4)  # type: ignore[arg-type]
  assert lesson.shown == 2
  assert lesson._replace(steps=steps[:1]).shown == 0
