"""Operations of a step by hand, and what is said of the machine."""

import json
import types

import numpy as np
import pytest

from jcl.backbones.decoder_config import DecoderConfig
from jcl.batching.batch import Row
from jcl.benchmarks import machine

SHAPE = DecoderConfig(vocabulary=10, width=4, layers=2, heads=2, feed_forward=6)


def test_operations_are_those_of_real_tokens_and_targets():
  layers = {'q': {'kernel': np.zeros((2, 4, 4))}, 'norm': {'scale': np.zeros((2, 4))}}
  parts = types.SimpleNamespace(decoder_config=SHAPE, backbone=types.SimpleNamespace(outputs=10))
  new = Row(np.arange(3), np.array([1, 2]), np.array([0, 1]), 0, 0)
  old = Row(np.arange(2), np.array([1]), np.array([0]), 1, 0, replay=True)
  forward = 2 * 32 * 5  # weights of both layers, five tokens
  forward += 2 * 2 * (6 + 3) * 2 * 4  # scores and values: 1 + 2 + 3 and 1 + 2 places, 2 layers
  forward += 2 * 4 * 10 * 3  # three targets
  teacher = 2 * 4 * 10 * 1
  assert machine.step_operations(parts, {'layers': layers}, [new, old]) == 3 * forward + teacher


def test_the_rate_of_all_matmuls_lies_between_those_of_each():
  rates = machine.matmul_rates(SHAPE, 16)
  single = [rate for name, rate in rates.items() if name != 'all']
  assert '16 x 4 x 6' in rates
  assert min(single) <= rates['all'] * (1 + 1e-9)
  assert rates['all'] <= max(single) * (1 + 1e-9)


def test_what_is_said_of_the_machine_is_plain_data(tmp_path, monkeypatch):
  info = tmp_path / 'cpuinfo'
  info.write_text('model name\t: A Processor\ncpu MHz\t\t: 2600.4\ncpu MHz\t\t: 1200.0\n')
  monkeypatch.setattr(machine, 'CPUS', info)
  found = json.loads(json.dumps(machine.described()))
  assert found['processor'] == 'A Processor'
  assert {'jax', 'jcl', 'cores', 'device', 'threads'} <= found.keys()
  assert machine.clocks()['mhz'] == [2600, 1200]
  monkeypatch.setattr(machine, 'CPUS', tmp_path / 'none')
  assert machine.clocks()['mhz'] == []


def test_torch_says_its_threads():
  pytest.importorskip('torch')
  assert machine.torch_threads()['torch_threads'] >= 1
