"""The tolerance of the tests is wide enough for any order of a sum, and narrow enough to matter."""

import numpy as np
import pytest
from support import rounding


@pytest.mark.parametrize('terms', [1, 16, 1000, 30000])
def test_sums_in_any_order_are_close(terms):
  """One term after another, the order that rounds worst, against float64."""
  for seed in range(20):
    values = np.random.default_rng(seed).standard_normal(terms).astype(np.float32)
    found = np.add.accumulate(values, dtype=np.float32)
    wanted = values.astype(np.float64).sum()
    rounding.assert_close(found[-1], wanted, terms, scale=np.abs(found).max())
    values = np.abs(values)
    found, wanted = np.add.accumulate(values, dtype=np.float32)[-1], values.sum(dtype=np.float64)
    rounding.assert_close(found, wanted, terms)


def test_tolerance_follows_size_depth_and_precision():
  one = rounding.tolerance(1)
  assert one == pytest.approx(8 * 2**-23)
  assert rounding.tolerance(100, depth=3) == pytest.approx(30 * one)
  assert rounding.tolerance(1, dtype=np.float64) == pytest.approx(8 * 2**-52)
  assert rounding.layers(2, gradient=True) == 2 * rounding.layers(2) == 28


@pytest.mark.parametrize(
  ('found', 'wanted'),
  [
    ({'a': np.array([1.0, 2.0])}, {'a': np.array([1.0, 2.00001])}),
    ({'a': 2.0, 'b': 1e-3}, {'a': 2.0, 'b': 1.00001e-3}),  # each leaf at its own scale
    ({'a': 0.0}, {'a': 1e-30}),
    ({'a': 1e-30}, {'a': 0.0}),
    ({'a': np.nan}, {'a': 1.0}),
    ({'a': 1.0}, {'a': 1.0, 'b': 1.0}),
    ({'a': np.ones(2)}, {'a': np.ones((2, 1))}),
  ],
)  # fmt: skip
def test_what_is_not_rounding_is_refused(found, wanted):
  with pytest.raises(AssertionError):
    rounding.assert_close(found, wanted, terms=4)
  rounding.assert_close(wanted, wanted, terms=4)


def test_a_scale_of_the_terms_covers_their_cancellation():
  found, wanted = np.float32(1e4) + np.float32(0.1) - np.float32(1e4), 0.1
  with pytest.raises(AssertionError):
    rounding.assert_close(found, wanted, terms=3)
  rounding.assert_close(found, wanted, terms=3, scale=1e4)
