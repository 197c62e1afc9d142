"""Raw streams made by hand, for the tests of what is made of them."""

from jcl.streams.raw import RawRow, RawStream


def rows(split, *pairs):
  return [RawRow(f'{split}:{i}', text, label=label) for i, (text, label) in enumerate(pairs, 1)]


def stream(*tasks, **fields):
  return RawStream('toy', tasks, **fields)
