"""Float tolerances derived from size and precision, so that a test passes on every processor.

Two processors, or one processor with two vector widths, add the terms of a sum in different orders,
fuse different multiplications and additions and round exp and tanh differently. The difference of
two such results grows with the number of terms and with the number of sums that follow each other;
it does not depend on what the sums mean. A literal such as 2e-5 holds on the machine it was read
from.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def tolerance(terms: int, depth: int = 1, margin: float = 8, dtype=np.float32) -> float:
  """Largest rounding difference to allow, as a share of the largest entry of the result.

  The roundings of a sum of n terms behave like a random walk: its error is below
  margin · √n · eps times the sum of their magnitudes with near certainty (Higham and Mary 2019,
  "A new approach to probabilistic rounding error analysis", there λ√n·u). A result of `depth` sums,
  each computed from the one before, carries `depth` such errors.

  Args:
    terms: numbers that one sum adds: the width of a matrix product, the targets of a mean, the
      entries of a norm. 1 for an elementwise formula. Where sums of several sizes follow each
      other, the largest.
    depth: sums that follow each other. A decoder's layer has six: query or key, scores, attended
      values, output, up and down; its gradient twice as many.
    margin: what cancellation and the condition of the problem may add. More than 8 needs a reason
      beside it.
    dtype: precision that the less precise side computes in.
  """
  return float(margin * depth * np.sqrt(terms) * jnp.finfo(dtype).eps)


def layers(count: int, gradient: bool = False) -> int:
  """`depth` of `count` transformer layers with their embedding and projection, or its gradient."""
  return (6 * count + 2) * (2 if gradient else 1)


def of_model(config, gradient: bool = False) -> dict[str, int]:
  """`terms` and `depth` of the states or logits of a decoder or encoder, or of their gradient."""
  widest = max(config.width, config.feed_forward)
  return {'terms': widest, 'depth': layers(config.layers, gradient)}


def trained(steps: int, rate: float, terms: int, depth: int, dtype=np.float32) -> float:
  """Largest absolute difference of a parameter after `steps` steps of Adam at `rate`.

  Adam divides a gradient by its root mean square, so a step is of size `rate` however small the
  gradient is, and its relative error is the one of the smallest gradient that matters: a margin of
  64 for entries up to an eighth of the largest. A step starts from the error of the one before.
  Entries of gradients nearer to 0 decide by their sign; give rows enough that there are none.
  """
  return steps * rate * tolerance(terms, depth, margin=64, dtype=dtype)


def assert_close(
  found, wanted, terms: int, depth: int = 1, margin: float = 8, dtype=np.float32, scale=None,
) -> None:  # fmt: skip
  """Asserts that two trees agree within the rounding of `tolerance`, leaf by leaf.

  Args:
    found: a tree of arrays or numbers.
    wanted: a tree of the same structure, in any precision.
    terms, depth, margin, dtype: as in `tolerance`.
    scale: size of the largest number met on the way; by default the largest entry of each wanted
      leaf. Give it where terms cancel and the result is much smaller than they are.

  Raises:
    AssertionError: names the leaf; the numbers in it are shares of the scale.
  """
  found, wanted = (jax.tree.map(lambda x: np.asarray(x, np.float64), t) for t in (found, wanted))
  chex.assert_trees_all_equal_structs(found, wanted)
  chex.assert_trees_all_equal_shapes(found, wanted)
  largest = lambda leaf: float(np.max(np.abs(leaf), initial=0)) if scale is None else float(scale)
  sizes = jax.tree.map(lambda leaf: largest(leaf) or np.finfo(np.float64).tiny, wanted)
  shares = (jax.tree.map(np.divide, tree, sizes) for tree in (found, wanted))
  chex.assert_trees_all_close(*shares, rtol=0, atol=tolerance(terms, depth, margin, dtype))
