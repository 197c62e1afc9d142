"""Tiny model folders on disk, made of golden files, for the tests of import."""

import pathlib

import numpy as np
import safetensors.numpy

from jcl.backbones import tokenizer as tokenizers

GOLDENS = pathlib.Path(__file__).parent / 'goldens'


def golden(case: str) -> dict[str, np.ndarray]:
  """The arrays of a golden file."""
  with np.load(GOLDENS / f'decoder_{case}.npz') as file:
    return dict(file)


def weights(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors by their own names."""
  return {k.removeprefix('weight:'): x for k, x in golden.items() if k.startswith('weight:')}


def write(
  folder: pathlib.Path, golden: dict[str, np.ndarray], vocabulary: int = 40
) -> pathlib.Path:
  """A folder as `save_pretrained` leaves it, with a word tokenizer of `vocabulary` ids."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(str(golden['config']))
  safetensors.numpy.save_file(weights(golden), folder / 'model.safetensors')
  words = [f'w{i:03}' for i in range(vocabulary - 4)]
  tokenizers.word_tokenizer(words)[0].save(str(folder / 'tokenizer.json'))
  return folder
