"""How a step scales: the sums worked by hand, the page, and what is refused."""

import itertools
import json

import pytest
from support.config_folder import SMALL, folder
from support.launchers import call

from jcl.preflight import scaling
from jcl.preflight.collectives import Collective
from jcl.preflight.scaling import Point, Speeds

CALL = ('plan', '--config=configs/quickstart.py:seq', '--scaling')
POINTS = (
  Point(1, 800, 1000.0, {}),
  Point(4, 300, 250.0, {'all-reduce': Collective(2, 90.0), 'all-gather': Collective(1, 10.0)}),
)


def test_efficiency_is_the_time_of_one_device_over_that_of_all():
  made = scaling.section(POINTS, Speeds(rate=100.0, links=(40.0, 20.0)), batch_size=16)
  one, four = made.values['points']
  # One device takes 10 s. Of four each computes for 2.5 s, and sends 100 bytes.
  assert [e['at_once'] for e in one['efficiency']] == [1, 1]
  assert four['sent'] == 100
  assert [e['at_once'] for e in four['efficiency']] == [1, 10 / (4 * 5)]
  assert [e['one_after_the_other'] for e in four['efficiency']] == [10 / (4 * 5), 10 / (4 * 7.5)]
  assert made.rows[2][0] == '4'
  assert made.rows[2][4:] == ['50% to 100%', '33% to 50%']


def test_numbers_of_devices_double():
  assert scaling.doubling(256) == (1, 2, 4, 8, 16, 32, 64, 128, 256)
  assert scaling.doubling(6) == (1, 2, 4)


@pytest.mark.slow
def test_the_command_says_it_for_1_to_256_devices(tmp_path):
  done = call(
    *CALL, f'--config.backbone.path={folder(tmp_path, SMALL)}', '--tokens=16', '--json',
    '--config.train.batch_size=512', '--links=1e9',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  page = json.loads(done.stdout)
  assert 'order_of_tasks' not in page['assumed']  # a stand-in is the only task
  points = page['scaling']['points']
  assert [point['devices'] for point in points] == list(scaling.doubling(256))
  assert [point['bytes'] for point in points] == sorted((p['bytes'] for p in points), reverse=True)
  assert points[0]['sent'] == 0
  for one, two in itertools.pairwise(points):
    assert one['sent'] < two['sent']
    assert one['flops'] > two['flops']
    assert one['efficiency'][0]['at_once'] > two['efficiency'][0]['at_once']


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ('--devices=8', '--devices goes without --scaling'),
    ('--links=fast', "--links has 'fast'; give bytes a second"),
    ('--links=0', "--links has '0'; give bytes a second"),
    ('--links=', '--links is empty; give bytes a second'),
    ('--device_rate=0', '--device_rate=0: give a number of at least 1'),
    ('--device_rate=nan', '--device_rate=nan: give a finite number'),
    ('--device_memory=8e10', '--device_memory goes with --phases'),
    ('--noscaling --links=1e9', '--links goes with --scaling'),
    ('--noscaling --device_rate=1e9', '--device_rate goes with --scaling'),
    ('--config.train.tensor=3', 'divides none of 1, 2, 4, … 256 devices; give a power of two'),
  ],
)
def test_what_cannot_be_is_refused(given, said):
  done = call(*CALL, *given.split())
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert said in done.stderr
