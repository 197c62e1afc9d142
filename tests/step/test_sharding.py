"""The mesh that a user gives."""

import jax
import pytest

from jcl.errors import UserError
from jcl.step import sharding


@pytest.mark.parametrize('mesh', [1, 'cpu', None])
def test_a_mesh_is_one_of_the_axis_data(mesh):
  mesh = jax.make_mesh((1,), ('model',)) if mesh is None else mesh
  with pytest.raises(UserError, match=r'^mesh (is|has the axes) .*; give jax\.make_mesh\(\(N,\)'):
    sharding.given_mesh(mesh)
  one = sharding.make_mesh(1)
  assert sharding.given_mesh(one) is one
  assert sharding.given_mesh(None) == sharding.make_mesh()
