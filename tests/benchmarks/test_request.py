"""What cannot be measured is refused in one line, before anything is read."""

import importlib.util

import pytest
from absl import flags

from jcl.benchmarks import CONTENDERS
from jcl.benchmarks.request import WORKLOADS, Request, check
from jcl.benchmarks.suite import MEASURE
from jcl.commands import benchmark, command_line
from jcl.errors import UserError


def test_every_workload_is_measured():
  assert list(MEASURE) == list(WORKLOADS)


@pytest.mark.parametrize(
  ('how', 'says'),
  [
    ({'workloads': ('stp',)}, "--workloads has 'stp'; there are task, step"),
    ({'workloads': ()}, '--workloads is empty'),
    ({'against': ('pytorch',)}, "--against has 'pytorch'; there are torch, torch-tuned"),
    ({'rows': (8, 0)}, '--rows has 0'),
    ({'workloads': ('replay',), 'held': ()}, '--held is empty'),
  ],
)
def test_a_wrong_request_names_the_flag_and_what_would_be_right(how, says):
  with pytest.raises(UserError) as error:
    check(Request(**{'workloads': ('step',), **how}))
  assert str(error.value).startswith(says)


def test_without_torch_the_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  check(Request(('step',)))
  with pytest.raises(UserError, match=r'--against=torch needs torch.*pip install torch'):
    check(Request(('step',), ('torch',)))


def test_a_folder_as_the_file_of_times_is_refused_before_anything_is_measured(tmp_path):
  given = flags.FlagValues()
  benchmark.define_flags(given, ())
  command_line.parse(given, [f'--json={tmp_path}'])
  with pytest.raises(UserError, match=r'^--json=.* is a folder; give a file, .*results\.json$'):
    benchmark.run(given)


def test_the_contenders_are_those_of_the_issue():
  assert list(CONTENDERS) == ['torch', 'torch-tuned']
