"""Maps of a model over the devices: made once for each model, mesh and way of sharding."""

import dataclasses

from support import tiny

from jcl.backbones.decoder import decoder
from jcl.step import sharding
from jcl.training.compiled_maps import compiled_maps


def test_equal_models_share_their_maps_and_sharded_ones_have_others():
  mesh = sharding.make_mesh(1)
  one = compiled_maps(decoder(tiny.CONFIG), 1, 0, mesh)
  again = compiled_maps(decoder(dataclasses.replace(tiny.CONFIG)), 1, 0, mesh)
  assert again is one
  assert compiled_maps(decoder(tiny.CONFIG), 1, 0, mesh, True) is not one
  assert one.targets(len) is one.targets(len)
  assert one.generate(4, 1) is not one.generate(4, 2)
