"""A headless Chromium, driven over two pipes, that says how a page looks."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
SECONDS = 120


def found() -> str | None:
  """The program, if there is one."""
  return next(filter(None, map(shutil.which, NAMES)), None)


# In the page: what is wider than it, and which texts and marks have too little contrast (WCAG 2.1).
LOOK = """(() => {
  const wide = document.documentElement.clientWidth, problems = [];
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = c => {
    const [r, g, b] = c.slice(0, 3)
      .map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + .05) / (y + .05);
  };
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c[3]) layers.push(c);
      if (c[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  if (document.documentElement.scrollWidth > wide) problems.push('the page scrolls to the side');
  let texts = 0, marks = 0, least = 99;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || ['SCRIPT', 'STYLE'].includes(e.tagName) || e.closest('title')) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || style.visibility === 'hidden') continue;
    if (box.right > wide + 1 && !e.closest('.wide')) problems.push(`wide: ${text.slice(0, 60)}`);
    const svg = e.closest('svg'), colour = rgba(svg ? style.fill : style.color);
    const back = behind(svg || e), found = ratio(over(colour, back), back);
    texts++; least = Math.min(least, found);
    if (found < 4.5) problems.push(`contrast ${found.toFixed(2)}: ${text.slice(0, 60)}`);
  }
  const drawings = 'svg .line, svg .dot, svg .ring, svg .part, svg .mark';
  for (const e of document.querySelectorAll(drawings)) {
    const style = getComputedStyle(e);
    const drawn = rgba(e.matches('.line, .ring, .mark') ? style.stroke : style.fill);
    const back = behind(e.closest('svg')), found = ratio(over(drawn, back), back);
    marks++;
    if (found < 3) problems.push(`mark ${found.toFixed(2)}: ${e.getAttribute('class')}`);
  }
  return {problems: [...new Set(problems)], texts, marks, least};
})()"""


class Browser:
  """One page of a Chromium; `said` has what its console says and what it fails to load.

  Args:
    write, read: file descriptors of the pipes.
  """

  def __init__(self, write: int, read: int):
    self._write, self._read, self._rest, self._number = write, read, b'', 0
    self.said: list[str] = []
    self.asked: list[str] = []
    target = self.call('Target.createTarget', session=False, url='about:blank')['targetId']
    attached = self.call('Target.attachToTarget', session=False, targetId=target, flatten=True)
    self.session = attached['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def call(self, method: str, session: bool = True, **params: Any) -> dict:
    """The answer to a command of the DevTools protocol."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if session:
      message['sessionId'] = self.session
    os.write(self._write, json.dumps(message).encode() + b'\0')
    while True:
      got = self._next()
      if got.get('id') == self._number:
        assert 'error' not in got, got
        return got['result']
      self._hear(got)

  def until(self, event: str) -> None:
    """Waits for an event."""
    while True:
      got = self._next()
      self._hear(got)
      if got.get('method') == event:
        return

  def _next(self) -> dict:
    while b'\0' not in self._rest:
      chunk = os.read(self._read, 1 << 20)
      assert chunk, 'the browser has ended'
      self._rest += chunk
    one, _, self._rest = self._rest.partition(b'\0')
    return json.loads(one)

  def _hear(self, got: dict) -> None:
    method, params = got.get('method'), got.get('params', {})
    if method in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded',
                  'Network.loadingFailed'):  # fmt: skip
      self.said.append(json.dumps(params)[:500])
    if method == 'Network.requestWillBeSent':
      self.asked.append(params['request']['url'])

  def open(self, page: pathlib.Path, width: int, dark: bool = False, media: str = '') -> None:
    """Loads a page at a width, in light or in dark, for the screen or for print."""
    self.call('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1,
              mobile=width < 600)  # fmt: skip
    scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
    self.call('Emulation.setEmulatedMedia', media=media, features=[scheme])
    self.call('Page.navigate', url=page.as_uri())
    self.until('Page.loadEventFired')

  def run(self, script: str) -> Any:
    """The value of an expression of JavaScript in the page."""
    got = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
    assert 'exceptionDetails' not in got, got
    return got['result'].get('value')

  def enter(self) -> None:
    """Presses the key Enter."""
    named = {'key': 'Enter', 'code': 'Enter', 'windowsVirtualKeyCode': 13}
    self.call('Input.dispatchKeyEvent', type='keyDown', text='\r', **named)
    self.call('Input.dispatchKeyEvent', type='keyUp', **named)

  def picture(self) -> bytes:
    """A PNG of the whole page, in base64."""
    return self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
  """A browser that ends with the block."""
  program = found()
  assert program
  theirs_in, ours_out = os.pipe()
  ours_in, theirs_out = os.pipe()
  with tempfile.TemporaryDirectory() as folder:
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    arguments = [
      '--headless=new', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe',
      '--disable-dev-shm-usage', '--no-first-run', f'--user-data-dir={folder}',
    ]  # fmt: skip
    child = subprocess.Popen(
      ['bash', '-c', script, 'bash', program, *arguments], pass_fds=(theirs_in, theirs_out),
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
      made = Browser(ours_out, ours_in)
      yield made
      made.call('Browser.close', session=False)
    finally:
      os.close(ours_out)
      os.close(ours_in)
      with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(10)
      child.kill()
      child.wait()
