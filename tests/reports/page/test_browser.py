"""The page in Chromium: phone, desk and paper, light and dark; keys, sorting, hovering."""

import json

import pytest
from support import chromium, reported

from jcl.reports.page import document

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not chromium.found(), reason='needs a Chromium (Debian: chromium)'),
]
HARD = ['أين بطاقتي ' * 9, '👩‍👩‍👧‍👦' * 400, 'x' * 10_000]
RUNS = [
  reported.run('seq'), reported.run('seq', seed=1), reported.run(), reported.run(seed=1),
  reported.run('joint'), reported.run('ewc', finished=False, matrix=reported.MATRIX[:2]),
]  # fmt: skip


def hard():
  one = reported.run(tasks=HARD, warnings=HARD)
  one['negative_flips']['examples'] = [
    {'task': t, 'text': t, 'answer': t, 'answered': t} for t in HARD
  ]
  one['by_class'] *= 30
  one['config']['stream']['path'] = '/' + 'folder/' * 60
  return one


PAGES = {
  'one': lambda: document.document([reported.run()], [reported.log()]),
  'several': lambda: document.document(RUNS, [reported.log() for _ in RUNS]),
  'hard': lambda: document.document([hard()], [reported.log()], ['/' + 'folder' * 60]),
  'text': lambda: document.document([reported.text_run()], [reported.log()]),
  'wide': lambda: document.document(
    [{**reported.run(matrix=[[0.5] * 40] * 41), 'tasks': [f'a long name {i}' for i in range(40)],
      'sizes': None, 'answer_scores': {}, 'invalid': None, 'task_metrics': None}]
  ),
}  # fmt: skip


@pytest.fixture(scope='module')
def browser():
  with chromium.browser() as one:
    yield one


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize(('width', 'media'), [(390, ''), (1100, ''), (720, 'print')])
@pytest.mark.parametrize('name', PAGES)
def test_a_page_fits_and_can_be_read(name, width, dark, media, browser, tmp_path):
  page = tmp_path / 'report.html'
  page.write_text(PAGES[name](), 'utf-8')
  browser.said.clear()
  browser.asked.clear()
  browser.open(page, width, dark, media)
  browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
  found = browser.run(chromium.LOOK)
  assert found['problems'] == []
  assert found['texts'] > 200
  assert found['marks'] > 10
  assert browser.said == []
  assert browser.asked == [page.as_uri()]


def test_tables_sort_and_filter_by_keys_and_charts_say_values(browser, tmp_path):
  one = hard()
  one['by_class'] = [
    {'task': 'a', 'class': f'class {i}', 'examples': 10, 'right': i, 'wrong': [['class 0', 10 - i]]}
    for i in range(8)
  ]
  page = tmp_path / 'report.html'
  page.write_text(document.document([one], [reported.log()]), 'utf-8')
  browser.open(page, 1100)
  tables, title = "[...document.querySelectorAll('table')]", 'Newest answers by class'
  table = f"{tables}.find(t => t.caption.textContent === '{title}')"
  browser.run(f"{table}.closest('details').open = true")
  first = lambda: browser.run(f'{table}.tBodies[0].rows[0].cells[0].textContent')
  browser.run(f"{table}.querySelectorAll('th button')[3].focus()")
  browser.enter()
  assert first() == 'class 7'
  browser.enter()
  assert first() == 'class 0'
  assert browser.run(f"{table}.querySelectorAll('th')[3].ariaSort") == 'ascending'
  browser.run(
    f"(f => {{ f.value = 'CLASS 5'; f.dispatchEvent(new Event('input')) }})"
    f"({table}.parentElement.previousElementSibling.querySelector('input'))"
  )
  assert browser.run(f'[...{table}.tBodies[0].rows].filter(r => !r.hidden).length') == 1
  box = browser.run(
    "(e => { e.scrollIntoView(); const b = e.getBoundingClientRect(); return [b.x, b.y, b.width] })"
    "(document.querySelector('svg[data-plot]'))"
  )  # fmt: skip
  x, y = box[0] + box[2] - 20, box[1] + 60
  browser.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)
  said = browser.run("document.querySelector('.jcl-tip').textContent")
  assert said == 'at 3mean: 56.7'
  browser.run("document.querySelector('svg[data-plot]').focus()")
  said = lambda: browser.run(
    "(t => t.hidden ? null : t.textContent)(document.querySelector('.jcl-tip'))"
  )
  keys = {'ArrowRight': [], 'ArrowLeft': [], 'Home': [], 'End': [], 'Escape': []}
  for key, heard in keys.items():
    for kind in ('keyDown', 'keyUp'):
      browser.call('Input.dispatchKeyEvent', type=kind, key=key, code=key)
    heard.append(said())
  assert keys == {
    'ArrowRight': ['at 1mean: 90'],
    'ArrowLeft': ['at 1mean: 90'],
    'Home': ['at 1mean: 90'],
    'End': ['at 3mean: 56.7'],
    'Escape': [None],
  }
  assert browser.run("document.querySelector('.jcl-tip').getAttribute('role')") == 'status'
  assert json.loads(json.dumps(browser.said)) == []


def test_a_chart_says_values_below_0_with_a_minus(browser, tmp_path):
  page = tmp_path / 'report.html'
  lines = [{**line, 'loss': -2.0} if 'loss' in line else line for line in reported.log()]
  page.write_text(document.document([reported.run()], [lines]), 'utf-8')
  browser.open(page, 1100)
  browser.run("document.querySelector('#training svg[data-plot]').focus()")
  for kind in ('keyDown', 'keyUp'):
    browser.call('Input.dispatchKeyEvent', type=kind, key='End', code='End')
  assert 'loss: −2' in browser.run("document.querySelector('.jcl-tip').textContent")


# Of each box: whether it goes on to the side, and down; whether a hint and a fade say so.
WIDE = """[...document.querySelectorAll('.jcl .wide')].filter(box => box.clientWidth).map(box => {
  const before = [box.previousElementSibling, box.previousElementSibling?.previousElementSibling];
  const hint = before.find(e => e?.classList.contains('swipe'));
  const said = hint.offsetHeight ? hint.textContent : '';
  const fades = getComputedStyle(box).maskImage.match(/90deg|linear-gradient\\(rgb/g) || [];
  return [box.scrollWidth - box.clientWidth - box.scrollLeft > 1,
    box.scrollHeight - box.clientHeight - box.scrollTop > 1,
    said.includes('right'), said.includes('below'),
    fades.includes('90deg'), fades.some(one => one !== '90deg'), box.tabIndex];
})"""
SETTLED = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))'


# Of each box: its caption, and whether all of it lies in what the box shows, left of the fade.
CAPTIONS = """[...document.querySelectorAll('.wide:not(:has(.pairs))')].map(box => {
  box.scrollLeft = AT;
  const range = document.createRange(), inside = box.getBoundingClientRect();
  range.selectNodeContents(box.querySelector('caption'));
  const goes = box.scrollWidth - box.clientWidth > 1;
  const end = inside.left + box.clientWidth - (goes ? 30 : -1);
  return [box.querySelector('caption').textContent, goes,
    [...range.getClientRects()].every(one => one.left > inside.left - 1 && one.right < end)];
})"""
# Captions that are seen although the heading, title or summary just above them is the same.
REPEATED = """[...document.querySelectorAll('.jcl caption')].filter(caption => {
  const seen = caption.offsetHeight > 1;
  const heads = [caption.closest('section')?.querySelector('h2'),
    caption.closest('details')?.querySelector('summary')];
  return seen && heads.some(head => head?.textContent === caption.textContent);
}).map(caption => caption.textContent)"""


@pytest.mark.parametrize('name', ['hard', 'wide'])
@pytest.mark.parametrize('place', [0, 1e6])
def test_the_caption_of_a_wide_table_stays_in_sight_on_a_phone(name, place, browser, tmp_path):
  page = tmp_path / 'report.html'
  page.write_text(PAGES[name](), 'utf-8')
  browser.open(page, 390)
  browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
  found = browser.run(CAPTIONS.replace('AT', str(place)))
  assert any(wide for _, wide, _ in found)
  assert [caption for caption, _, whole in found if not whole] == []


def test_a_caption_repeats_no_heading_and_a_phone_shows_facts_without_what_and_value(
  browser, tmp_path
):
  page = tmp_path / 'report.html'
  page.write_text(PAGES['one'](), 'utf-8')
  browser.open(page, 390)
  browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
  assert browser.run(REPEATED) == []
  labels = browser.run(
    "[...document.querySelectorAll('#run tbody :is(th, td)')]"
    ".map(cell => getComputedStyle(cell, '::before').content)"
  )
  assert len(labels) > 20
  assert set(labels) == {'none'}
  lines = browser.run(
    "[...document.querySelector('#run table').rows].slice(1).map(row => row.offsetHeight)"
  )
  assert min(lines) < 40  # a fact and its value share a line


@pytest.mark.parametrize('width', [390, 1100])
def test_a_table_that_goes_on_says_so_and_keys_scroll_it(width, browser, tmp_path):
  page = tmp_path / 'report.html'
  one = json.loads(json.dumps(reported.run(matrix=[[0.5] * 40] * 41)))
  one |= {'tasks': [f'a long name {i}' for i in range(40)], 'sizes': None, 'answer_scores': {},
          'invalid': None, 'task_metrics': None}  # fmt: skip
  one['negative_flips']['examples'] *= 60
  page.write_text(document.document([one]), 'utf-8')
  browser.open(page, width)
  browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
  browser.run(SETTLED)
  boxes = browser.run(WIDE)
  for box in boxes:
    assert box[:2] == box[2:4] == box[4:6], box
  assert any(box[0] for box in boxes)
  assert any(box[1] for box in boxes)
  assert {box[6] for box in boxes} == {0}
  covered = browser.run(
    "[...document.querySelectorAll('.swipe:not([hidden])')].filter(hint => hint.offsetHeight &&"
    ' hint.getBoundingClientRect().bottom >'
    ' hint.nextElementSibling.getBoundingClientRect().top + 1).length'
  )
  assert covered == 0
  matrix = "document.querySelector('.wide:has(.matrix)')"
  flips = "document.querySelector('#flips .wide')"
  for box, key, number, side in (
    (matrix, 'ArrowRight', 39, 'scrollLeft'), (flips, 'ArrowDown', 40, 'scrollTop'),
  ):  # fmt: skip
    browser.run(f'{box}.focus()')
    for _ in range(3):
      for kind in ('keyDown', 'keyUp'):
        browser.call(
          'Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=number
        )
    browser.run(  # a busy machine takes its time to scroll
      'new Promise(done => { const look = left => '
      f'{box}.{side} > 0 || !left ? done() : setTimeout(look, 50, left - 1); look(100) }})'
    )
    assert browser.run(f'{box}.{side}') > 0
  browser.run(f'for (const b of [{matrix}, {flips}]) b.scrollTo(1e6, 1e6)')
  browser.run(SETTLED)
  for box in (matrix, flips):  # its end is seen
    assert browser.run(f'getComputedStyle({box}).maskImage') == 'none'
    hint = f"{box}.parentElement.querySelector(':scope > .swipe')"
    assert browser.run(f'{hint}.textContent.trim()') == ''
  rows = f"{flips}.parentElement.querySelector('.filter input')"
  browser.run(f"{rows}.value = 'no such row'; {rows}.dispatchEvent(new Event('input'))")
  browser.run(SETTLED)
  (left,) = browser.run(WIDE.replace('.jcl .wide', '#flips .wide'))
  assert left[1:6:2] == [False, False, False]  # what is left after filtering fits
  browser.run("document.querySelector('#flips table').style.minWidth = '2000px'")
  browser.run(SETTLED)
  (left,) = browser.run(WIDE.replace('.jcl .wide', '#flips .wide'))
  assert left[:6:2] == [True, True, True]  # a table that grows inside its box
  browser.open(page, 720, media='print')
  assert not any(any(box[4:6]) for box in browser.run(WIDE))
  assert browser.run("[...document.querySelectorAll('.swipe')].filter(e => e.offsetHeight)") == []


def test_words_are_whole_in_print(browser, tmp_path):
  """A name of a task is one line, and a number is not cut within its digits."""
  page = tmp_path / 'report.html'
  one = reported.run(tokens={'train': 1234567, 'generate': 99})
  page.write_text(document.document([one], [reported.log()]), 'utf-8')
  browser.open(page, 720, media='print')
  tall = browser.run(
    "[...document.querySelectorAll('table:not(.matrix) tbody :is(td, th)')].filter(cell => {"
    '  const range = document.createRange(); range.selectNodeContents(cell);'
    "  const words = cell.textContent.trim(); return /^[\\w.,%]{1,9}$/.test(words) &&"
    '    new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1;'
    '}).map(cell => cell.textContent)'
  )  # fmt: skip
  assert tall == []
