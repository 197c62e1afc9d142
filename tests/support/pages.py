"""The pages of the documentation, taken apart: blocks of code, commands, links, paths."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from support import ROOT

NOT_RUN, IN_THE_TEST = '<!-- not run: ', '<!-- in the test: '
NAMES = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
PAGES = (*NAMES, *(f'docs/{path.name}' for path in sorted((ROOT / 'docs').glob('*.md'))))
FENCE = re.compile(r'((?:^<!-- .*-->\n)*)^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(([^)\s]+)\)')
PATH = re.compile(r'`((?:docs|jcl|configs|launch|tests|\.ci)(?:/[\w.*-]+)*/?)`')
HEADING = re.compile(r'^#{1,4} (.+)$', re.MULTILINE)
COMMANDS = ('jcl', '.venv/bin/jcl', 'python')


class Block(NamedTuple):
  """A block of code.

  Attributes:
    where: page and line.
    language: `python`, `sh`, `json` or `text`.
    source: the code, with what the test replaces replaced.
    reason: why it is not run; empty: it is.
    file: the file that it is the content of, by its first line `# file: NAME`; else empty.
  """

  where: str
  language: str
  source: str
  reason: str
  file: str


def text_of(name: str) -> str:
  """The text of a page, by its path from the root."""
  return (ROOT / name).read_text()


def blocks(name: str, text: str) -> list[Block]:
  """The fenced blocks of a page, in order."""
  found = []
  for match in FENCE.finditer(text):
    notes, language, source = match.groups()
    line = text[: match.start(2)].count('\n') + 1
    reason = re.search(re.escape(NOT_RUN) + r'(.*) -->', notes)
    for change in re.findall(re.escape(IN_THE_TEST) + r'(.*) -->', notes):
      before, after = change.split(' => ')
      assert before in source, f'{name}:{line}: there is no {before!r} to replace'
      source = source.replace(before, after)
    file = re.match(r'# file: (\S+)\n', source)
    found.append(
      Block(
        f'{name}:{line}', language, source, reason[1] if reason else '', file[1] if file else ''
      )
    )
  return found


def commands(name: str, text: str) -> Iterator[tuple[str, list[str]]]:
  """(place, words) of every command of jcl in blocks of `sh` and in lines indented by four."""
  lines = [line for b in blocks(name, text) if b.language == 'sh' for line in b.source.splitlines()]
  lines += re.findall(r'^    (\S.*)$', FENCE.sub('', text), re.MULTILINE)
  for line in lines:
    for part in line.split(' && '):
      words = shlex.split(part) if part.split(' ')[0] in COMMANDS else []
      if words[:1] == ['python'] and not words[1].startswith('launch/'):
        words = []
      if words:
        yield f'{name}: {part}', words


def anchors(text: str) -> set[str]:
  """The anchors of a page's headings, as GitHub makes them."""
  plain = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
  slug = lambda heading: re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
  return {slug(heading) for heading in HEADING.findall(plain)}


def broken_links(name: str, text: str) -> list[str]:
  """Links of a page to files or headings that are not there, and paths that do not exist."""
  here = (ROOT / name).parent
  wrong = []
  for target in LINK.findall(FENCE.sub('', text)):
    if re.match(r'https?://', target):
      continue
    path, _, anchor = target.partition('#')
    file = (here / path).resolve() if path else ROOT / name
    known = file.exists() and (
      not anchor or anchor in anchors(text if not path else file.read_text())
    )
    if not known:
      wrong.append(f'{name}: {target}')
  for path in PATH.findall(text):
    if not (list(ROOT.glob(path)) if '*' in path else (ROOT / path).exists()):
      wrong.append(f'{name}: `{path}`')
  return wrong


def public_names(text: str) -> set[str]:
  """Names of the package that a page's text or code uses: `jcl.learn` -> learn."""
  return set(re.findall(r'(?<![\w/.\'"-])jcl\.([A-Za-z_]\w*)(?![\w.]*:)', text))


def write_file(folder: pathlib.Path, block: Block) -> pathlib.Path:
  """Writes a block that is the content of a file into a folder, with the packages around it."""
  path = folder / block.file
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.py':
    for package in list(path.relative_to(folder).parents)[:-1]:
      (folder / package / '__init__.py').touch()
  path.write_text(block.source)
  return path
