"""Bytes that a step sends: of a text by hand, and of compiled steps by the formula."""

import json

import pytest
from support.config_folder import SMALL, folder
from support.launchers import forks

from jcl.preflight import collectives

TEXT = """\
HloModule jit_step, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %whole = bf16[32,8]{1,0:T(8,128)} all-gather(%slice), replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %out = (s32[], f32[4,8]) tuple(%i, %x)
}

%condition (p: (s32[], f32[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %part = f32[1,8]{1,0} reduce-scatter(%x), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
  %begun = (f32[2]{0}, f32[8]{0}) all-gather-start(%y), replica_groups={}, dimensions={0}
  %done = f32[8]{0} all-gather-done(%begun)
  %sum = (f32[4,8]{1,0}, pred[]) all-reduce(%x, %flag), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  %moved = f32[3]{0} collective-permute(%z), source_target_pairs={{0,1},{1,2}}
  ROOT %out = f32[4,8] get-tuple-element(%sum), index=0
}
"""  # noqa: E501


def test_collectives_of_a_text_are_counted_with_the_turns_of_their_loop():
  found = collectives.count(TEXT)
  assert found['all-gather'] == (6, 5 * 3 / 4 * 32 * 8 * 2 + 3 / 4 * 8 * 4)
  assert found['reduce-scatter'] == (1, 3 * 8 * 4)
  assert found['all-reduce'] == (1, 2 * 3 / 4 * (4 * 8 * 4 + 1))
  assert found['collective-permute'] == (1, 12)
  assert set(found) == {'all-gather', 'reduce-scatter', 'all-reduce', 'collective-permute'}


def test_a_program_without_collectives_sends_nothing():
  text = 'ENTRY %main (x: f32[2]) -> f32[2] {\n  ROOT %y = f32[2] add(%x, %x)\n}'
  assert collectives.count(text) == {}


STEPS = """
import json, sys
from jcl import methods
from jcl.config import Config, TrainConfig
from jcl.preflight import collectives, cost
from jcl.step import sharding

found = {}
for fsdp in (False, True):
  config = Config(method=methods.settings('seq'), train=TrainConfig(batch_size=8, fsdp=fsdp))
  config.backbone.path = sys.argv[1]
  for devices in (1, 2, 4, 8):
    now = cost.outline(config, sharding.make_mesh(devices), 16)
    found[f'{devices} {fsdp}'] = collectives.count(now.compiled.as_text())
print(json.dumps(found))
"""
EMBEDDING, NORMS = 96 * 32, (2 * 3 + 1) * 32
LAYERS = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # q, o, k, v, feed-forward
SCALARS = 128  # bytes of the losses, counts and norms that a step sums, at most


@pytest.mark.slow
def test_a_step_sends_its_gradient_once_and_its_sharded_layers_as_often_as_they_are_made_whole(
  tmp_path,
):
  done = forks().code(STEPS, str(folder(tmp_path, SMALL)), devices=8)
  assert done.status == 0, done.err[-3000:]
  found = json.loads(done.out.splitlines()[-1])
  for count in (1, 2, 4, 8):
    share = (count - 1) / count
    sent = {kind: bytes for kind, (_, bytes) in found[f'{count} False'].items()}
    assert set(sent) <= {'all-reduce'}
    more = sent.get('all-reduce', 0) - 2 * share * 4 * (EMBEDDING + LAYERS + NORMS)
    assert 0 <= more <= 2 * share * SCALARS
    sent = {kind: bytes for kind, (_, bytes) in found[f'{count} True'].items()}
    if count == 1:
      assert sum(sent.values()) == 0
      continue
    assert set(sent) == {'all-gather', 'reduce-scatter', 'all-reduce'}
    # Layers are made whole in the forward pass and again in the backward one.
    assert sent['all-gather'] == share * 4 * (EMBEDDING + 2 * LAYERS)
    assert sent['reduce-scatter'] == share * 4 * (EMBEDDING + LAYERS)
    assert 0 <= sent['all-reduce'] - 2 * share * 4 * NORMS <= 2 * share * SCALARS
