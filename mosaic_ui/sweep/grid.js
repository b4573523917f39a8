// The cells of a sweep: props.value is the JSON of board.py, without pictures, which server.sweep_pictures gives by their names.
// Cells are changed in place while a sweep runs, so that scroll, focus and choice stay. A chosen cell tells its numbers below; its
// button names the kept run in window.mosaicSweepRun, which Python reads at trigger('input'). saveFile is in copy.js.
const board = element.querySelector('.sweep-board'), head = board.querySelector('thead'), body = board.querySelector('tbody');
const menu = board.querySelector('.sweep-metric'), legend = board.querySelector('.sweep-legend'), detail = board.querySelector('.sweep-detail');
const BATCH = 32;
let sweep = null, chosen = null, asking = false;
const pictures = new Map(), refused = new Set(); // by sweep, run and name

const make = (tag, text = '', more = {}) => Object.assign(document.createElement(tag), { textContent: text, ...more });
const key = (cell, name) => `${sweep.id} ${cell.run} ${name}`;

function read() {
  let next = null;
  try { next = JSON.parse(props.value || 'null'); } catch { return; }
  board.hidden = !next;
  if (!next) return;
  const other = !sweep || sweep.id !== next.id;
  sweep = next;
  if (other) { chosen = null; build(); }
  options();
  body.querySelectorAll('button[data-cell]').forEach(fill);
  board.querySelector('.sweep-about').textContent = sweep.about;
  tell();
  ask();
}

function build() {
  const { x, y } = sweep, top = make('tr'), corner = make('th', '', { className: 'corner' });
  corner.append(make('span', `${x.name} →`), ...(y ? [make('span', `${y.name} ↓`)] : []));
  corner.title = [x, y].filter(Boolean).map(axis => `${axis.name}: ${axis.about}`).join('; ');
  top.append(corner, ...x.labels.map(word => make('th', word, { scope: 'col' })));
  head.replaceChildren(top);
  body.replaceChildren(...(y?.labels ?? ['']).map((word, row) => {
    const line = make('tr');
    line.append(make('th', word, { scope: 'row' }), ...x.labels.map((_, column) => {
      const place = make('td'), button = make('button', '', { type: 'button' });
      button.dataset.cell = row * x.labels.length + column;
      place.append(button);
      return place;
    }));
    return line;
  }));
}

function options() { // the choice stays while more metrics become known
  const now = menu.value, wanted = sweep.metrics.map(([name]) => name).join();
  if (menu.dataset.held !== wanted) {
    menu.replaceChildren(...sweep.metrics.map(([value, words]) => make('option', words, { value })));
    menu.dataset.held = wanted;
    if (sweep.metrics.some(([name]) => name === now)) menu.value = now;
  }
  board.querySelector('.sweep-bar label').hidden = !sweep.metrics.length;
}

function range() {
  const numbers = sweep.cells.map(cell => cell.values[menu.value]?.[0]).filter(value => value !== undefined);
  return [Math.min(...numbers), Math.max(...numbers), numbers.length];
}

function fill(button) { // one hue from light to dark: the order survives greyscale print and colour blindness
  const cell = sweep.cells[button.dataset.cell], value = cell.values[menu.value], [low, high] = range();
  const words = cell.state === 'done' ? value?.[1] ?? 'not known' : cell.words;
  button.className = `is-${cell.state}`;
  button.setAttribute('aria-pressed', String(Number(button.dataset.cell) === chosen));
  button.setAttribute('aria-label', `${cell.title}: ${words}`);
  button.title = [cell.title, cell.sentence].filter(Boolean).join('. ');
  const share = value && high > low ? (value[0] - low) / (high - low) : 0.5;
  button.style.background = value ? `hsl(215 70% ${96 - 66 * share}%)` : '';
  button.style.color = value ? share > 0.68 ? '#fff' : '#000' : ''; // where both have a contrast of 4.5
  const address = cell.picture && pictures.get(key(cell, cell.picture)), image = button.querySelector('img');
  if (!address) button.replaceChildren(make('span', words));
  else if (image?.src === address) button.lastChild.textContent = words;
  else button.replaceChildren(make('img', '', { src: address, alt: '' }), make('span', words));
}

function scale() {
  const [low, high, count] = range();
  legend.replaceChildren();
  if (!count) return;
  const text = number => sweep.cells.find(cell => cell.values[menu.value]?.[0] === number).values[menu.value][1];
  legend.append(make('span', text(low)), ...(high > low ? [make('i'), make('span', text(high))] : []));
}

function tell() {
  scale();
  const cell = chosen === null ? null : sweep.cells[chosen];
  detail.hidden = !cell;
  if (!cell) return;
  const held = detail.contains(document.activeElement); // the button is made anew while more cells come
  const parts = [make('h3', cell.title)];
  if (cell.sentence) parts.push(make('p', cell.sentence));
  else if (cell.state !== 'done') parts.push(make('p', `This cell is ${cell.words}.`));
  const numbers = sweep.metrics.filter(([name]) => cell.values[name]).map(([name, words]) => `${words}: ${cell.values[name][1]}`);
  if (numbers.length) parts.push(make('p', numbers.join('; ') + '.', { className: 'fine' }));
  const pair = [['Dense', cell.dense], ['This cell', cell.picture]].map(([words, name]) => {
    const address = name && pictures.get(key(cell, name)), figure = make('figure');
    if (address) figure.append(make('img', '', { src: address, alt: `${words}, ${cell.title}` }), make('figcaption', words));
    return figure;
  });
  if (pair[1].firstChild) parts.push(make('div', '', { className: 'sweep-pair' })), parts.at(-1).append(...pair.filter(one => one.firstChild));
  if (cell.run) parts.push(make('button', 'Open in the studio', { type: 'button', className: 'sweep-open' }));
  detail.replaceChildren(...parts);
  if (held) detail.querySelector('button')?.focus();
}

async function ask() { // what is missing, in batches; one at a time
  if (asking) return;
  asking = true;
  try {
    for (;;) {
      const wanted = new Map();
      sweep.cells.forEach((cell, i) => [cell.picture, i === chosen && cell.dense].filter(Boolean).forEach(name => {
        const held = key(cell, name);
        if (!pictures.has(held) && !refused.has(held) && wanted.size < BATCH) wanted.set(held, name);
      }));
      if (!wanted.size) return;
      const id = sweep.id, found = await server.sweep_pictures([id, [...new Set(wanted.values())]]);
      for (const [held, name] of wanted) if (found[name]) pictures.set(held, found[name]); else refused.add(held);
      if (sweep.id !== id) continue;
      body.querySelectorAll('button[data-cell]').forEach(fill);
      tell();
    }
  } catch { /* the studio does not answer; the next look asks again */ } finally { asking = false; }
}

function choose(index) {
  chosen = chosen === index ? null : index;
  body.querySelectorAll('button[data-cell]').forEach(fill);
  tell();
  ask();
  if (chosen !== null) detail.scrollIntoView({ block: 'nearest' });
}

board.addEventListener('click', async event => {
  const cell = event.target.closest('button[data-cell]'), file = event.target.closest('button[data-kind]');
  if (cell) choose(Number(cell.dataset.cell));
  if (event.target.closest('.sweep-open')) {
    window.mosaicSweepRun = sweep.cells[chosen].run;
    scrollTo({ top: 0, behavior: 'instant' }); // what opens, or why it cannot, begins at the top
    trigger('input');
  }
  if (!file) return;
  const said = board.querySelector('.sweep-files [role=status]');
  said.textContent = 'One moment …';
  try {
    const made = await server.sweep_file([sweep.id, file.dataset.kind]);
    if (made.address) await saveFile(made.address, made.name);
    said.textContent = made.said ?? `Made ${made.name}.`;
  } catch {
    said.textContent = 'This could not be had: the studio does not answer. Try again.';
  }
});

menu.addEventListener('change', () => { body.querySelectorAll('button[data-cell]').forEach(fill); tell(); });
read();
watch('value', read);
