// The inside of a block: it comes as HTML in props.value. A click on a tile of the mosaic, or Enter on a row of it, writes the block, counted
// from 1, to window.mosaicBlock, and trigger('input') tells Python. A question about a layer writes its place to window.mosaicLayer, and
// trigger('submit') asks. The rows are one stop of the Tab key; the arrow keys go from row to row.
const place = element.querySelector('.inside-place');
const names = NAMES;
let rows = null; // the buttons over the rows of the mosaic

function draw() {
  place.innerHTML = props.value || '';
  const open = place.querySelector('[data-block]')?.dataset.block;
  rows?.forEach((row, i) => row.setAttribute('aria-pressed', String(String(i + 1) === open)));
}

function pick(block) {
  window.mosaicBlock = block;
  if (place.querySelector('[data-block]')?.dataset.block !== String(block)) wait(block);
  trigger('input');
}

function wait(block) { // the answer takes a second and more: what is coming is said at once
  rows?.forEach((row, i) => row.setAttribute('aria-pressed', String(i + 1 === block)));
  const card = document.createElement('p');
  card.className = 'inside-wait';
  card.setAttribute('role', 'status');
  card.textContent = `Opening ${names[block - 1]} …`;
  place.replaceChildren(card);
  card.scrollIntoView({ block: 'nearest' });
}

document.addEventListener('mosaic-inside', () => { if (place.querySelector('.inside-wait')) draw(); }); // also where it was refused

place.addEventListener('click', event => {
  const button = event.target.closest('[data-layer]');
  if (!button) return;
  window.mosaicLayer = Number(button.dataset.layer);
  trigger('submit');
});

// Plotly draws no element per row; the rectangle that takes its mouse events has the size of all rows together.
function lay(plot, holder) {
  const area = plot.querySelector('.nsewdrag[data-subplot="xy"]')?.getBoundingClientRect();
  if (!area || !area.height) return;
  const from = holder.getBoundingClientRect(), high = area.height / names.length;
  rows.forEach((row, i) => Object.assign(row.style, {
    left: `${area.left - from.left}px`, top: `${area.top - from.top + i * high}px`, width: `${area.width}px`, height: `${high}px`,
  }));
}

function build(plot) {
  const holder = document.createElement('div');
  holder.className = 'block-rows';
  holder.setAttribute('role', 'group');
  holder.setAttribute('aria-label', 'Blocks of the mosaic: arrow keys choose, Enter looks inside');
  rows = names.map((name, i) => {
    const row = document.createElement('button');
    row.type = 'button';
    row.tabIndex = i ? -1 : 0;
    row.setAttribute('aria-label', `Look inside ${name}`);
    row.addEventListener('click', () => pick(i + 1));
    return row;
  });
  holder.addEventListener('keydown', event => {
    const at = rows.indexOf(event.target);
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    rows[at].tabIndex = -1;
    rows[to].tabIndex = 0;
    rows[to].focus();
  });
  holder.append(...rows);
  plot.parentElement.append(holder);
  plot.on('plotly_afterplot', () => lay(plot, holder));
  plot.on('plotly_click', event => {
    const block = Math.round(event.points[0].y);
    if (block >= 1 && block <= names.length) pick(block);
  });
  lay(plot, holder);
  draw();
}

const waiting = setInterval(() => { // the mosaic is drawn when its tab is opened
  const plot = document.querySelector('#mosaic .js-plotly-plot');
  if (!plot?.on) return;
  clearInterval(waiting);
  build(plot);
}, 300);

draw();
watch('value', draw);
