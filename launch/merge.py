"""Merges adapters, PEFT folders in and a PEFT folder or a whole model out.

    python launch/merge.py --adapters=runs/a,runs/b --how=ties --weights=0.5,0.5 --density=0.2 \\
      --rank=16 --out=merged [--base=models/pythia-160m] [--into=weights]

The ways are those of jcl/backbones/lora_merging.py. The names of tensors follow from the base
model, which the adapters name or --base does; to write an adapter its config.json is enough.
"""

import pathlib

from absl import flags

from jcl import cli
from jcl.errors import UserError

flags.DEFINE_string('adapters', None, 'folders, with commas')
flags.DEFINE_string('how', 'linear', 'linear, cat, svd, factors, ties or dare')
flags.DEFINE_string('weights', '', 'numbers, with commas; empty: 1/K each')
flags.DEFINE_float('density', 0.2, 'of the entries that ties and dare keep, in (0, 1]')
flags.DEFINE_integer('rank', 0, 'of the merged adapter; 0: see jcl/backbones/lora_merging.py')
flags.DEFINE_integer('seed', 0, 'of the draws of dare', lower_bound=0)
flags.DEFINE_string('out', None, 'new folder')
flags.DEFINE_string('base', '', 'model that the adapters are for; empty: as they say')
flags.DEFINE_enum('into', 'adapter', ['adapter', 'weights'], 'what is written')


def run() -> None:
  """Reads the adapters, merges them and writes the result."""
  names, out = cli.required('adapters').split(','), pathlib.Path(cli.required('out'))
  if len(set(names)) != len(names):
    raise UserError(f'--adapters={flags.FLAGS.adapters} names a folder twice; give it a weight')
  for flag, ways in (('density', ('ties', 'dare')), ('seed', ('dare',))):
    if flags.FLAGS[flag].present and flags.FLAGS.how not in ways:
      raise UserError(f'--{flag} is of {" and ".join(ways)}, not of {flags.FLAGS.how}')
  from jcl.backbones import lora_merging
  from jcl.backbones.files import hf, peft
  from jcl.storage import atomic

  recipe = lora_merging.Recipe(
    flags.FLAGS.how,
    tuple(cli.fractions(flags.FLAGS.weights, 'weights')) if flags.FLAGS.weights else (),
    flags.FLAGS.rank,
    flags.FLAGS.density,
    flags.FLAGS.seed,
  )
  atomic.check_new(out)
  base = flags.FLAGS.base or peft.common_base([pathlib.Path(name) for name in names])
  if flags.FLAGS.into == 'weights':
    loaded = hf.load(base)
    adapters = {name: peft.read(pathlib.Path(name), loaded.config) for name in names}
    params = lora_merging.merge_into(loaded.params, adapters, recipe)
    hf.save(out, loaded._replace(params=params))
  else:
    config = hf.load_config(base)
    adapters = {name: peft.read(pathlib.Path(name), config) for name in names}
    peft.write(out, config, lora_merging.merge(adapters, recipe), base)
  print(f'{len(names)} adapters, merged by {recipe.how}, are in {out}')


if __name__ == '__main__':
  cli.main(run)
