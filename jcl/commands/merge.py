"""Merges adapters: PEFT folders in, a PEFT folder or a whole model out.

    jcl merge --adapters=runs/a,runs/b --how=ties --weights=0.5,0.5 --density=0.2 --rank=16 \\
      --out=merged [--base=models/pythia-160m] [--into=weights]

jcl/backbones/lora_merging.py has the formulas. The base model, which the adapters name or --base
does, determines the names of the tensors; to write an adapter its config.json is enough.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line
from jcl.errors import UserError, count_of
from jcl.step.numerics import computing


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_list(
    given, 'adapters', '', 'folders of adapters, with commas', once='folder', of_paths=True
  )
  flags.DEFINE_string('how', 'linear', 'linear, cat, svd, factors, ties, magmax or dare', given)
  command_line.define_list(
    given, 'weights', '', 'numbers, with commas; empty: 1/K each, of K', float
  )
  flags.DEFINE_float(
    'density', 0.2, 'fraction of the entries that ties and dare keep, in (0, 1]', None, None, given
  )
  flags.DEFINE_integer(
    'rank', 0, 'rank of the merged adapter; 0: see jcl/backbones/lora_merging.py', None, None, given
  )
  flags.DEFINE_integer('seed', 0, 'seed of the draws of dare', 0, None, given)
  command_line.define_path(given, 'out', None, 'folder to write; it must not be there yet')
  command_line.define_path(
    given, 'base', '', 'base model of the adapters; empty: the one they name'
  )
  command_line.define_family(given, 'base model')
  flags.DEFINE_enum('into', 'adapter', ['adapter', 'weights'], 'what is written', given)


@computing
def run(given: flags.FlagValues) -> None:
  """Reads the adapters, merges them and writes the result."""
  names = command_line.required(given, 'adapters')
  out = pathlib.Path(command_line.required(given, 'out'))
  for flag, ways in (('density', ('ties', 'dare')), ('seed', ('dare',))):
    if given[flag].present and given.how not in ways:
      raise UserError(f'--{flag} is of {" and ".join(ways)}, not of {given.how}')
  from jcl.backbones import lora_merging
  from jcl.backbones.decoder_config import DecoderConfig
  from jcl.backbones.files import hf, peft, peft_merging
  from jcl.storage import atomic
  from jcl.training import base_model

  recipe = lora_merging.Recipe(given.how, given.weights, given.rank, given.density, given.seed)
  atomic.check_new(out)
  trained_on = base_model.of_adapters([pathlib.Path(name) for name in names])
  base = given.base or peft.common_base([pathlib.Path(name) for name in names])
  for line in peft.notes_on([pathlib.Path(name) for name in names], base):
    print(f'note: {line}')
  if given.into == 'weights':
    loaded = hf.load(base, family=given.family)
    if not isinstance(loaded.config, DecoderConfig):
      raise UserError(f'--base: {base} is an encoder; adapters are of decoders')
    for line in loaded.notes:
      print(f'note: {line}')
    shape, params = loaded.config, loaded.params
    assert params is not None, 'weights are read'
    base_model.check_base(base, params, trained_on)
    if recipe in (lora_merging.Recipe(), lora_merging.Recipe(weights=(1.0,))) and len(names) == 1:
      shape, params = peft_merging.merge_one(pathlib.Path(names[0]), shape, params)
    else:
      adapters = {name: peft.read(pathlib.Path(name), shape) for name in names}
      params = lora_merging.merge_into(params, adapters, recipe)
    hf.save(out, loaded._replace(config=shape, params=params))
  else:
    config = hf.load_config(base, given.family)
    if not isinstance(config, DecoderConfig):
      raise UserError(f'--base: {base} is an encoder; adapters are of decoders')
    adapters = {name: peft.read(pathlib.Path(name), config) for name in names}
    peft.write(out, config, lora_merging.merge(adapters, recipe), base)
    base_model.write_beside(out, trained_on)
  print(f'{count_of(len(names), "adapter")}, merged by {recipe.how}: {out}')
