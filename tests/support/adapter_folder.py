"""Random adapters and their folders, for the tests of adapters and their merges."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from goldens import make_decoder_goldens as decoders

from jcl.backbones.decoder import decoder
from jcl.backbones.files import hf, peft
from support import model_folder
from support.tiny import every_position


def golden(case: str) -> dict[str, np.ndarray]:
  """The arrays of a golden adapter."""
  with np.load(model_folder.GOLDENS / f'lora_{case}.npz') as file:
    return dict(file)


def write(folder: pathlib.Path, golden: dict[str, np.ndarray], base: str = '') -> pathlib.Path:
  """A folder as peft's `save_pretrained` leaves it."""
  folder.mkdir(parents=True, exist_ok=True)
  fields = json.loads(str(golden['config'])) | {'base_model_name_or_path': base}
  (folder / 'adapter_config.json').write_text(json.dumps(fields))
  safetensors.numpy.save_file(model_folder.weights(golden), folder / 'adapter_model.safetensors')
  return folder


def model(case: str, folder: pathlib.Path) -> hf.Loaded:
  """The tiny model of a case."""
  return hf.load(str(model_folder.write(folder, model_folder.golden(case))))


def adapter(shapes: dict[str, tuple[int, int, int]], rank: int, seed: int, scale: float = 0.5):
  """A random adapter for kernels [L, in, out]."""
  draw = np.random.default_rng(seed)
  normal = lambda *shape: draw.standard_normal(shape).astype(np.float32)
  layers = {
    name: {
      'a': normal(depth, rank, width_in),
      'b': normal(depth, rank, width_out),
      'scale': np.full(depth, scale, np.float32),
    }
    for name, (depth, width_in, width_out) in shapes.items()
  }
  return {'layers': layers}


def product(adapter, name: str) -> np.ndarray:
  """ΔW [L, in, out] of one projection, float64."""
  a, b, scale = (np.asarray(adapter['layers'][name][k], np.float64) for k in ('a', 'b', 'scale'))
  return np.stack([s * x.T @ y for x, y, s in zip(a, b, scale, strict=True)])


def logits(config, params) -> np.ndarray:
  """Logits [M, V] at all real tokens of the golden rows, padded on the right."""
  batch = every_position(decoders.tokens(), decoders.ROWS, bucket=12)
  params = jax.tree.map(jnp.asarray, params)
  return np.asarray(jax.jit(decoder(config).logits)(params, batch))


def real(logits_BTV: np.ndarray) -> np.ndarray:
  """Returns the rows of [B, T, V] that are real (no padding)."""
  return np.concatenate([logits_BTV[i, :n] for i, n in enumerate(decoders.ROWS)])


def same(one, other) -> None:
  """Asserts that two adapters are the same, bit for bit."""
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def reread(folder: pathlib.Path, config, adapter, **kwargs):
  """The adapter, written and read again."""
  peft.write(folder, config, adapter, **kwargs)
  return peft.read(folder, config)
