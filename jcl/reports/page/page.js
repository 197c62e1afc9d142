// Hover over charts, tables that sort and filter. The page is complete without it.
(() => {
  'use strict';
  const make = (name, properties, ...inside) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...inside);
    return made;
  };
  // Columns sort by data-v where a cell has it, else by the text; numbers go from large to small.
  const valueOf = cell => cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  const sort = (table, column, header) => {
    const body = table.tBodies[0], rows = [...body.rows];
    const numeric = rows.some(row => valueOf(row.cells[column]) !== null);
    const now = header.getAttribute('aria-sort'), down = now ? now === 'ascending' : numeric;
    rows.sort((a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]], [v, w] = [valueOf(x), valueOf(y)];
      if (!numeric) return x.textContent.localeCompare(y.textContent) * (down ? -1 : 1);
      return v === null || w === null ? (v === null) - (w === null) : (v - w) * (down ? -1 : 1);
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
    header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    body.append(...rows);
  };
  for (const table of document.querySelectorAll('.jcl table:not(.matrix)')) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = make('button', { type: 'button', title: 'sort by this column' }, ...header.childNodes);
      header.append(button);
      button.addEventListener('click', () => sort(table, column, header));
    });
  }
  // A table larger than its place says so, and fades at the edges behind which it goes on.
  for (const box of document.querySelectorAll('.jcl .wide')) {
    const hint = make('p', { className: 'note swipe' });
    const edge = () => {
      const [wide, tall] = [box.scrollWidth - box.clientWidth, box.scrollHeight - box.clientHeight];
      const on = { more: wide - box.scrollLeft > 1 && 'to the right (← →)', below: tall - box.scrollTop > 1 && 'below (↑ ↓)' };
      for (const side in on) box.classList.toggle(side, Boolean(on[side]));
      const said = Object.values(on).filter(Boolean).join(' and ');
      hint.textContent = said ? `Goes on ${said}: swipe, or keys.` : '\u00a0';
      hint.hidden = wide < 2 && tall < 2;
    };
    box.before(hint);
    box.addEventListener('scroll', edge, { passive: true });
    for (const one of [box, box.firstElementChild]) new ResizeObserver(edge).observe(one);
  }
  // A field above long tables of words keeps the rows that hold what is typed.
  for (const table of document.querySelectorAll('.jcl table[data-filter]')) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 6) continue;
    const field = make('input', { type: 'search' }), count = make('output', {}, `${rows.length} rows`);
    table.parentElement.before(make('label', { className: 'filter' }, 'Filter rows: ', field, ' ', count));
    field.addEventListener('input', () => {
      const has = row => row.textContent.toLowerCase().includes(field.value.toLowerCase());
      for (const row of rows) row.hidden = !has(row);
      count.value = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
    });
  }
  // Under the pointer, and at the keys ← → Home End, a chart says the values of its lines.
  const tip = make('div', { className: 'jcl-tip', hidden: true, role: 'status' });
  const hide = () => { tip.hidden = true; };
  (document.querySelector('.jcl') || document.body).append(tip);
  const show = (x, y, lines) => {
    tip.replaceChildren(...lines.map(line => make('div', {}, line)));
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(4, Math.min(x + 14, room))}px`;
    tip.style.top = `${Math.max(4, y - tip.offsetHeight - 12)}px`;
  };
  for (const chart of document.querySelectorAll('.jcl svg[data-plot]:has(polyline[data-name])')) {
    const [left, right, bottom, top, x0, x1, y0, y1, log] = JSON.parse(chart.dataset.plot);
    const shown = value => Number(value.toPrecision(3)).toLocaleString('en').replace('-', '−');
    const between = share => log ? y0 * (y1 / y0) ** share : y0 + (y1 - y0) * share;
    const valueAt = y => between((bottom - y) / (bottom - top));
    const pointsOf = line => line.getAttribute('points').split(' ').map(p => p.split(',').map(Number));
    const series = [...chart.querySelectorAll('polyline[data-name]')]
      .map(line => ({ name: line.dataset.name, points: pointsOf(line) }));
    const nearer = at => (a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a;
    const say = (at, clientX, clientY) => {
      const found = series.map(({ name, points }) => [name, points.reduce(nearer(at))]);
      const x = x0 + (x1 - x0) * (found.at(-1)[1][0] - left) / (right - left);
      show(clientX, clientY, [`at ${shown(x)}`, ...found.map(([n, p]) => `${n}: ${shown(valueAt(p[1]))}`)]);
    };
    chart.addEventListener('pointermove', event => say(new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(chart.getScreenCTM().inverse()).x, event.clientX, event.clientY));
    let place = -1;
    const places = series.at(-1).points.map(point => point[0]);
    chart.tabIndex = 0;
    chart.setAttribute('aria-description', 'Arrow keys say the values.');
    for (const left of ['blur', 'pointerleave']) chart.addEventListener(left, hide);
    chart.addEventListener('keydown', event => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: places.length - 1 }[event.key];
      if (to === undefined) return event.key === 'Escape' && hide();
      event.preventDefault();
      place = Math.max(0, Math.min(to, places.length - 1));
      const at = new DOMPoint(places[place], top).matrixTransform(chart.getScreenCTM());
      say(places[place], at.x, at.y);
    });
  }
})();
