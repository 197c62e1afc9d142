"""Benchmarks: jcl beside torch loops for the same work, in one run on the same rows and weights.

`timing` lets the contenders take turns and makes ratios, `suite` says which workloads there are,
and `table` writes what was measured. A contender is a record of what it can be asked to do; torch
is imported by the modules whose names begin with `torch` alone, when their loops are asked for.
"""

CONTENDERS: dict[str, str] = {
  'torch': 'the plain loop, as the published code of LAMOL-KD runs it',
  'torch-tuned': 'a loop that a careful torch user would write',
}
"""{name of `--against`: what it is}."""

RATE = 1e-4  # learning rate of all contenders
