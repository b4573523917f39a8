// The table of kept runs: rows come as HTML in props.value; sorting, filtering and ticking happen here. trigger('input')
// tells Python that other rows are ticked (it reads them from the page); server.thumbnails, server.files and
// server.take_along give what is too large to send with every row; copyText and saveFile are in copy.js, sorter and sortKey in
// sorted_table.js.
const STEP = 60; // rows that are laid out at first, and that scrolling to the end adds: 2,000 would take seconds
const BATCH = 24; // rows whose thumbnails are asked for at once
const body = element.querySelector('tbody'), frame = element.querySelector('.runs-frame');
const filter = element.querySelector('.runs-filter'), all = element.querySelector('.runs-all');
const more = element.querySelector('.runs-more'); // at the end of the rows: a button, and pressed by scrolling to it
const count = element.querySelector('.runs-count'), empty = element.querySelector('.runs-empty');
const heads = [...element.querySelectorAll('th button')];
const MIME = { csv: ['text/csv', 'csv'], json: ['application/json', 'json'], markdown: ['text/markdown', 'md'], latex: ['text/x-tex', 'tex'] };
let rows = []; // {row, box, words, keys}: read once per update
let most = STEP; // rows that are laid out
const ticked = new Set(), pictures = new Map(), wanted = new Set();

function read(row) {
  const cells = [...row.cells].slice(2);
  return { row, box: row.querySelector('input'), words: row.textContent.toLowerCase(), keys: cells.map(sortKey) };
}

function draw() {
  body.innerHTML = props.value || '';
  rows = [...body.rows].map(read);
  for (const one of rows) one.row.hidden = true;
  laid = [];
  const there = new Set(rows.map(one => one.box.value));
  for (const id of [...ticked]) if (!there.has(id)) ticked.delete(id);
  for (const one of rows) { one.box.checked = ticked.has(one.box.value); mark(one); fill(one.row); }
  empty.hidden = rows.length > 0;
  element.querySelector('.runs').classList.toggle('is-empty', !rows.length);
  sort(rows);
  show();
  seen.disconnect();
  for (const one of rows) if ('pictures' in one.row.dataset && !pictures.has(one.box.value)) seen.observe(one.row);
}

function again() { // another order, or other words: from the top
  most = STEP;
  frame.scrollTop = 0;
  show();
}

function add() { most += STEP; show(); }

function mark(one) { one.row.classList.toggle('is-ticked', one.box.checked); }

const sort = sorter(heads, () => { sort(rows); again(); });

let laid = []; // what is laid out, in its order at the head of the body; all other rows are hidden behind it
function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of rows) one.fits = words.every(word => one.words.includes(word));
  const fitting = rows.filter(one => one.fits), now = fitting.slice(0, most), before = laid;
  laid = now;
  const stays = new Set(now);
  for (const one of before) if (!stays.has(one)) one.row.hidden = true;
  for (const one of now) one.row.hidden = false;
  if (now.some((one, i) => one !== before[i])) body.prepend(...now.map(one => one.row));
  more.hidden = fitting.length <= most;
  tell();
}

function tell() {
  const shown = rows.filter(one => one.fits).length;
  const of = shown === rows.length ? `${shown} run${shown === 1 ? '' : 's'}` : `${shown} of ${rows.length} runs`;
  count.textContent = ticked.size ? `${of}, ${ticked.size} ticked` : of;
  const boxes = rows.filter(one => one.fits);
  all.checked = boxes.length > 0 && boxes.every(one => one.box.checked);
  all.indeterminate = !all.checked && boxes.some(one => one.box.checked);
}

function tick(one, on) {
  one.box.checked = on;
  ticked[on ? 'add' : 'delete'](one.box.value);
  mark(one);
}

let timer = null;
function changed() { // a hand that ticks five rows asks once
  tell();
  clearTimeout(timer);
  timer = setTimeout(() => trigger('input'), 120);
}

filter.addEventListener('input', again);
more.addEventListener('click', add);
all.addEventListener('change', () => {
  for (const one of rows) if (one.fits) tick(one, all.checked);
  changed();
});
body.addEventListener('click', event => {
  const row = event.target.closest('tr'), one = row && rows.find(other => other.row === row);
  if (!one || getSelection().toString()) return;
  tick(one, event.target === one.box ? one.box.checked : !one.box.checked);
  changed();
});

new IntersectionObserver(([entry]) => { if (entry.isIntersecting) add(); }, { root: frame, rootMargin: '300px' }).observe(more);

// ---------------------------------------------------------------- pictures

const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { wanted.add(entry.target.dataset.id); seen.unobserve(entry.target); }
  setTimeout(ask, 30);
}, { root: frame, rootMargin: '200px' });

async function ask() {
  while (wanted.size) {
    const ids = [...wanted].slice(0, BATCH);
    ids.forEach(id => wanted.delete(id));
    const found = await server.thumbnails(ids).catch(() => ({}));
    for (const [id, pair] of Object.entries(found)) pictures.set(id, pair);
    for (const one of rows) if (ids.includes(one.box.value)) fill(one.row);
  }
}

function fill(row) {
  const pair = pictures.get(row.dataset.id);
  if (!pair) return;
  row.cells[1].replaceChildren(...pair.map((address, i) => {
    const picture = document.createElement(address ? 'img' : 'span');
    if (address) { picture.src = address; picture.alt = 'AB'[i]; }
    return picture;
  }));
}

// ---------------------------------------------------------------- files, and points of the plot

function chosen() { return rows.filter(one => ticked.size ? one.box.checked : one.fits).map(one => one.box.value); }

element.querySelectorAll('.runs-files [data-kind]').forEach(button => button.addEventListener('click', async () => {
  const shown = chosen();
  const [mime, end] = MIME[button.dataset.kind], text = await server.files([button.dataset.kind, shown]);
  const link = document.createElement('a');
  link.href = `data:${mime};charset=utf-8,${encodeURIComponent(text)}`;
  link.download = `mosaic-runs-${shown.length}.${end}`;
  link.click();
}));

const taken = element.querySelector('.runs-taken'), code = element.querySelector('.along-code');
element.querySelectorAll('.runs-files [data-along]').forEach(button => button.addEventListener('click', async () => {
  const kind = button.dataset.along, ids = kind === 'report' ? chosen() : [...ticked];
  taken.textContent = 'One moment …';
  code.hidden = true;
  try {
    const made = await server.take_along([kind, ids]);
    if (made.text) await copyText(made.text, code);
    if (made.address) await saveFile(made.address, made.name);
    taken.textContent = made.said ?? (made.text ? 'Copied.' : `Made ${made.name}.`);
  } catch {
    taken.textContent = 'This could not be had: the studio does not answer. Try again.';
  }
}));

window.mosaicShowRun = id => {
  const one = rows.find(other => other.box.value === id);
  if (!one) return;
  if (!one.fits) filter.value = '';
  if (one.row.hidden) { most = rows.length; show(); }
  one.row.scrollIntoView({ block: 'center' });
  one.row.classList.remove('is-shown');
  requestAnimationFrame(() => one.row.classList.add('is-shown'));
  one.box.focus({ focusVisible: true });
};

document.addEventListener('click', event => { // names on the front; plotly tells of its points in its own way
  const id = event.target.closest?.('[data-show-run]')?.dataset.showRun;
  if (id) window.mosaicShowRun(id);
});
setInterval(() => {
  const plot = document.querySelector('#runs-front .js-plotly-plot');
  if (!plot || plot.dataset.clicks) return;
  plot.dataset.clicks = 'yes';
  plot.on('plotly_click', event => window.mosaicShowRun(event.points[0].customdata));
}, 500);

// A table that is cut at the right says that more columns follow.
function sideways() {
  frame.classList.toggle('has-more', frame.scrollWidth - frame.clientWidth - frame.scrollLeft > 2);
}
frame.addEventListener('scroll', sideways);
const sizes = new ResizeObserver(sideways);
for (const part of [frame, frame.querySelector('table')]) sizes.observe(part);

draw();
watch('value', draw);
