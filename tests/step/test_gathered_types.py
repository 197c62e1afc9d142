"""Sharded kernels of a bfloat16 model are gathered in bfloat16, and nothing else changes."""

import json

import pytest
from support.launchers import forks

PROGRAM = """
import dataclasses, json, re
import jax, numpy as np
from support import eight_devices as cells, tiny
from jcl.backbones.decoder import decoder
from jcl.methods import Method
from jcl.step import losses, shards, train_step

backbone = decoder(dataclasses.replace(tiny.CONFIG, dtype='bfloat16'))
cell = cells.Cell(Method(), losses.plain(backbone), {}, {}, tiny.params(backbone), tiny.rows())
found = {}
for narrow in (True, False):
  if not narrow:
    shards.Shard.astype = lambda self, dtype: self
  for way in ('8', '8 fsdp'):
    mesh, how, trained, frozen, masks, teacher, batch = cells.ready(cell, way, 13)
    fn = jax.jit(train_step.make_gradient(cell.method, cell.loss_fn, mesh, **how))
    given = trained, frozen, teacher, {}, batch, cell.groups, masks
    text = fn.lower(*given).as_text()
    sent = lambda name: re.findall(name + r'"[\\s\\S]*?-> tensor<[\\dx]*x(\\w+)>', text)
    (loss, _), gradient = jax.block_until_ready(fn(*given))
    found[f'{narrow} {way}'] = {
      'loss': float(loss), 'gradient': cells.flat(gradient).tolist(),
      'gathered': sent('all_gather'), 'scattered': sent('reduce_scatter'),
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_what_is_gathered_is_narrow_and_its_gradient_is_summed_wide():
  done = forks().code(PROGRAM, devices=8)
  assert done.status == 0, done.err[-3000:]
  found = json.loads(done.out.splitlines()[-1])
  narrow, wide, whole = found['True 8 fsdp'], found['False 8 fsdp'], found['True 8']
  assert narrow['gathered'].count('bf16') >= 7  # q, k, v, o and three of the feed-forward
  assert set(wide['gathered']) == {'f32'}
  assert set(narrow['scattered']) == {'f32'}
  assert len(narrow['scattered']) == len(wide['scattered']) > 0
  for other in (wide, whole):
    assert narrow['loss'] == other['loss']
    assert narrow['gradient'] == other['gradient']
