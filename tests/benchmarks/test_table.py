"""The table and the JSON of given times."""

import types

import numpy as np

from jcl.benchmarks import table
from jcl.benchmarks.request import Request
from jcl.benchmarks.timing import Case

STEP = Case(
  'step', 'step', {'jcl': [0.1, 0.2, 0.3], 'torch': [0.2, 0.8, 0.9]},
  {'jcl: tokens a second': 2040.0, 'jcl: share of the matmul rate': 0.756},
)  # fmt: skip
REPLAY = Case('replay', 'step', {'jcl': [0.0005] * 3})


def results(*cases):
  made = types.SimpleNamespace(request=Request(('step',)), params={'w': np.zeros((3, 4))})
  return table.as_json(made, {'jax': '1'}, ({}, {}), {'all': 1e9}, cases, ['torch: a note'])


def test_ratios_are_medians_of_paired_ratios():
  found = results(STEP, REPLAY)
  assert found['ratios'] == {'step': {'torch': 3.0}}
  assert found['spread'] == {'step': {'torch': [2.0, 4.0]}}
  assert found['cases'][0]['seconds'] == STEP.seconds
  assert found['parameters'] == 12
  assert found['request']['workloads'] == ['step']


def test_a_line_a_case_with_ratio_and_spread():
  answers = Case('greedy', 'answer', {'jcl': [0.05] * 3})
  lines = table.as_text(results(STEP, REPLAY, answers)).splitlines()
  assert 'torch / jcl' in lines[0]
  assert '200 ms a step' in lines[1]
  assert '2,040 tokens/s, 76% of matmul' in lines[1]
  assert lines[1].endswith('3.00 (2.00–4.00)')
  assert '500 µs a step' in lines[2]
  assert '50 ms an answer' in lines[3]
  assert lines[-1] == 'torch: a note'
