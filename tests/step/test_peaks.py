"""The peaks of devices: the right line of the table, or a measure, or none."""

import types

import pytest

from jcl.step import peaks
from jcl.step.peaks import Peak, peak


@pytest.mark.parametrize(
  ('kind', 'bfloat16', 'float32'),
  [
    ('NVIDIA H200', 989e12, 494e12),
    ('NVIDIA H100 80GB HBM3', 989e12, 494e12),
    ('NVIDIA H100 PCIe', 756e12, 378e12),
    ('NVIDIA A100-SXM4-80GB', 312e12, 156e12),
    ('NVIDIA L4', 121e12, 60e12),
    ('NVIDIA L40S', 362e12, 183e12),  # not an L4
    ('NVIDIA L40', None, None),
    ('NVIDIA H100 NVL', 835e12, 417e12),
    ('NVIDIA H200 NVL', None, None),  # slower than an H200; no figure was found
    ('NVIDIA B200', 2250e12, 1100e12),
    ('Tesla V100-PCIE-16GB', 14e12, 14e12),
    ('Tesla V100-SXM2-16GB', 15.7e12, 15.7e12),
    ('NVIDIA A10G', None, None),
    ('TPU v2', None, None),
    ('TPU v3', 61.5e12, 61.5e12),
    ('TPU v6 lite', 918e12, 918e12),
    ('TPU v5 lite', 197e12, 197e12),
    ('TPU v5', 459e12, 459e12),
    ('TPU v4', 275e12, 275e12),
    ('cpu', None, None),
  ],
)
def test_a_kind_of_device_has_its_own_line(kind, bfloat16, float32):
  assert peaks.listed(kind, 'bfloat16') == bfloat16
  assert peaks.listed(kind, 'float32') == float32


def test_what_the_table_lacks_is_measured_but_for_cpus(monkeypatch):
  device = lambda kind, platform: types.SimpleNamespace(device_kind=kind, platform=platform)
  monkeypatch.setattr(peaks, 'measured', lambda dtype: {'float32': 5.0}[dtype])
  assert peak(device('NVIDIA X1', 'gpu'), 'float32') == Peak(5.0, 'measured')
  assert peak(device('cpu', 'cpu'), 'float32') == Peak(None, 'unknown')
  assert peak(device('TPU v4', 'tpu'), 'float32') == Peak(275e12, 'table')


def test_a_measure_is_a_rate():
  assert 1e7 < peaks.measured('float32', size=64) < 1e15
