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


WIDE = """[...document.querySelectorAll('.jcl .wide')].filter(box => box.clientWidth).map(box => {
  const before = [box.previousElementSibling, box.previousElementSibling?.previousElementSibling];
  const hint = before.find(e => e?.classList.contains('swipe'));
  return [box.scrollWidth - box.clientWidth > 1, Boolean(hint.offsetHeight),
    getComputedStyle(box).maskImage !== 'none', box.tabIndex];
})"""
SETTLED = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))'


@pytest.mark.parametrize('width', [390, 1100])
def test_a_table_that_goes_on_says_so_and_keys_scroll_it(width, browser, tmp_path):
  page = tmp_path / 'report.html'
  page.write_text(PAGES['wide'](), 'utf-8')
  browser.open(page, width)
  browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
  browser.run(SETTLED)
  boxes = browser.run(WIDE)
  assert {tuple(box[:3]) for box in boxes} <= {(True, True, True), (False, False, False)}
  assert any(box[0] for box in boxes)
  assert {box[3] for box in boxes} == {0}
  matrix = "document.querySelector('.wide:has(.matrix)')"
  browser.run(f'{matrix}.focus()')
  for _ in range(3):
    for kind in ('keyDown', 'keyUp'):
      browser.call(
        'Input.dispatchKeyEvent', type=kind, key='ArrowRight', code='ArrowRight',
        windowsVirtualKeyCode=39,
      )  # fmt: skip
  browser.run('new Promise(done => setTimeout(done, 400))')
  assert browser.run(f'{matrix}.scrollLeft') > 0
  browser.run(f'{matrix}.scrollLeft = 1e6')
  browser.run(SETTLED)
  assert browser.run(f'getComputedStyle({matrix}).maskImage') == 'none'  # its end is seen
  browser.open(page, 720, media='print')
  assert {box[2] for box in browser.run(WIDE)} == {False}


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
