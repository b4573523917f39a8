// The pictures of a comparison: view, order, zoom, full screen, one sample enlarged. `element` holds the markup of viewer.py,
// which may be replaced at any time, so all events are taken at `element`. The wheel is never taken: it scrolls the page.
// `server` gives the film strips of a sample that is enlarged; in a file there is none, as the markup carries them.
const ZOOMS = [1, 1.5, 2, 3, 4, 6];
const BLANK = 'data:image/gif;base64,R0lGODlhAQABAIAAAAAAAAAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw=='; // one clear pixel
let zoom = 0, mode = 'side', flipped = false, sorted = false, opened = null;
const one = (selector, root = element) => root.querySelector(selector);
const all = (selector, root = element) => [...root.querySelectorAll(selector)];
const viewer = () => one('.cmp-viewer');
const busy = target => target.closest('input:not([type=radio]):not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]');

function apply() {
  const view = viewer();
  if (!view) return;
  view.dataset.mode = mode;
  view.dataset.flipped = flipped;
  view.style.setProperty('--zoom', ZOOMS[zoom]);
  all('.cmp-modes input').forEach(radio => { radio.checked = radio.value === mode; });
  one('.cmp-zoom output').textContent = `${100 * ZOOMS[zoom]} %`;
  const flip = one('.cmp-flip');
  flip.setAttribute('aria-pressed', flipped);
  one('b', flip).textContent = flipped ? 'B' : 'A';
  one('.cmp-sort').checked = sorted;
  const front = { side: 'a', slider: 'b', flip: flipped ? 'b' : 'a', difference: 'd' }[mode];
  all('.cmp-pane').forEach(pane => all('button', pane).forEach(b => { b.tabIndex = pane.dataset.side === front ? 0 : -1; }));
  order();
}

function order() { // NaN and equal pictures come last
  const far = li => { const v = parseFloat(li.dataset.psnr); return Number.isFinite(v) ? v : 1e9; };
  all('.cmp-cells').forEach(list => {
    const cells = [...list.children];
    const wanted = [...cells].sort((x, y) => (sorted ? far(x) - far(y) : 0) || x.dataset.i - y.dataset.i);
    if (wanted.some((cell, i) => cell !== cells[i])) list.append(...wanted);
  });
}

function sample(i) {
  const cell = side => one(`.cmp-pane[data-side="${side}"] li[data-i="${i}"]`);
  return { a: cell('a'), b: cell('b'), d: cell('d') };
}

function make(tag, css, text) {
  const node = document.createElement(tag);
  if (css) node.className = css;
  if (text !== undefined) node.textContent = text;
  return node;
}

function picture(letter, name, source) {
  const figure = make('figure'), caption = make('figcaption'), image = make('img');
  if (letter) caption.append(make('b', '', letter), ' ');
  caption.append(name);
  image.src = source.querySelector('img').src;
  image.alt = source.querySelector('img').alt;
  figure.append(caption, image);
  return figure;
}

function strip(letter, told, cell, decibels) {
  const box = make('div', 'cmp-strip-one'), title = make('h3');
  title.append(make('b', '', letter), ` ${told.name}`);
  const image = make('img'), { naturalWidth, naturalHeight } = cell.querySelector('img');
  image.style.aspectRatio = `${told.frames.length * (naturalWidth || 1)} / ${naturalHeight || 1}`; // before the strip is there
  image.src = cell.dataset.film ?? BLANK;
  image.dataset.side = letter;
  image.alt = `Film strip of ${letter}: ${told.frames.map(f => `t ${f.t}, ${f.word}`).join('; ')}`;
  const heads = make('ol');
  told.frames.forEach((frame, k) => {
    const item = make('li'), band = make('i');
    band.style.background = frame.colour;
    item.append(band, make('b', '', `t ${frame.t}`), make('span', '', frame.word));
    const value = decibels[k];
    if (value) item.append(make('em', '', value === 'inf' ? 'equal' : `${value} dB`));
    heads.append(item);
  });
  heads.style.setProperty('--frames', told.frames.length);
  box.append(title, image, heads);
  return box;
}

function enlarge(i) {
  const { a, b, d } = sample(i);
  const dialog = one('.cmp-large');
  if (!a || !dialog) return;
  opened = i;
  const told = JSON.parse(one('.cmp-facts').textContent);
  const head = make('header'), title = make('h2', '', `Sample ${+i + 1}: ${a.dataset.what}`);
  const close = make('button', '', 'Close');
  close.type = 'button'; close.dataset.do = 'close';
  const turn = make('span', 'cmp-turn');
  [['back', '‹', 'Previous sample'], ['on', '›', 'Next sample']].forEach(([what, sign, label]) => {
    const button = make('button', '', sign);
    button.type = 'button'; button.dataset.do = what; button.setAttribute('aria-label', label);
    turn.append(button);
  });
  head.append(title, turn, close);
  const pair = make('div', 'cmp-three');
  pair.append(picture('A', told.a.name, a), picture('B', told.b.name, b), picture('', 'Difference', d));
  const parts = [head, make('p', 'cmp-far', `A and B: ${a.dataset.words}`), pair];
  if (told.a.frames.length && told.b.frames.length) {
    const steps = a.dataset.steps ? a.dataset.steps.split(' ') : [];
    parts.push(strip('A', told.a, a, []), strip('B', told.b, b, steps));
    parts.push(make('p', 'cmp-sub', 'The finished picture as each side foresees it at timestep t, in sampling order'
      + (steps.length ? '; below B its distance to A at that step.' : '.')));
  }
  dialog.replaceChildren(...parts);
  if (!dialog.open) dialog.showModal();
  if (told.a.frames.length && !a.dataset.film) fetchStrips(i);
}

async function fetchStrips(i) { // the one in sight first, then the others, for the arrow keys
  const view = viewer(), { id } = view.dataset;
  const ask = async samples => {
    const { strips = {}, said } = await server.film_strips([id, samples]).catch(() => ({ said: 'The film strip could not be had: the studio does not answer.' }));
    if (viewer() !== view) return false; // another comparison has taken its place
    for (const [k, [a, b]] of Object.entries(strips)) { sample(k).a.dataset.film = a; sample(k).b.dataset.film = b; }
    if (one('.cmp-large').open) fill(said);
    return !said;
  };
  if (await ask([+i]) && !view.dataset.asked) {
    view.dataset.asked = 'yes';
    const missing = all('.cmp-pane[data-side="a"] li', view).filter(li => !li.dataset.film);
    if (missing.length) ask(missing.map(li => +li.dataset.i));
  }
}

function fill(said) { // the strips of the sample in sight, or why they are not there
  const { a, b } = sample(opened);
  all('.cmp-strip-one img').forEach(image => {
    const address = (image.dataset.side === 'A' ? a : b).dataset.film;
    if (address && image.getAttribute('src') !== address) image.src = address;
  });
  const note = one('.cmp-large > .cmp-sub');
  if (said && note && !a.dataset.film) note.textContent = said;
}

function turn(by) {
  const cells = all('.cmp-pane[data-side="a"] li'), at = cells.findIndex(li => li.dataset.i === String(opened));
  enlarge(cells[(at + by + cells.length) % cells.length].dataset.i);
  one(`.cmp-large [data-do="${by > 0 ? 'on' : 'back'}"]`).focus();
}

function leave() {
  one('.cmp-large').close();
  const { a, b, d } = sample(opened);
  [a, b, d].map(li => li.querySelector('button')).find(button => button.tabIndex === 0)?.focus();
}

const DO = {
  in: () => { zoom = Math.min(ZOOMS.length - 1, zoom + 1); apply(); },
  out: () => { zoom = Math.max(0, zoom - 1); apply(); },
  flip: () => { flipped = !flipped; if (mode !== 'flip') mode = 'flip'; apply(); },
  whole: () => (document.fullscreenElement ? document.exitFullscreen() : viewer().requestFullscreen?.()),
  close: leave, on: () => turn(1), back: () => turn(-1),
};

element.addEventListener('click', event => {
  const wish = event.target.closest('[data-do]');
  if (wish) return DO[wish.dataset.do]();
  const cell = event.target.closest('.cmp-cells li');
  if (cell) return enlarge(cell.dataset.i);
  if (event.target === one('.cmp-large')) leave(); // the ground behind the sample
});
element.addEventListener('input', event => {
  const { target } = event;
  if (target.name === 'cmp-mode') { mode = target.value; apply(); }
  if (target.closest('.cmp-range')) viewer().style.setProperty('--at', `${target.value}%`);
  if (target.classList.contains('cmp-sort')) { sorted = target.checked; apply(); }
});
element.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || busy(event.target)) return;
  const large = one('.cmp-large')?.open;
  if (event.key === 'f' || event.key === 'F') { if (!large) { event.preventDefault(); DO.flip(); } }
  if (large && event.key === 'ArrowRight') turn(1);
  if (large && event.key === 'ArrowLeft') turn(-1);
});
element.addEventListener('scroll', event => { // side by side, both grids show the same place
  if (!event.target.classList?.contains('cmp-cells')) return;
  all('.cmp-cells').forEach(list => {
    if (list !== event.target) Object.assign(list, { scrollTop: event.target.scrollTop, scrollLeft: event.target.scrollLeft });
  });
}, true);
element.addEventListener('cancel', event => { event.preventDefault(); leave(); }, true); // Esc in the dialog
element.addEventListener('mouseover', event => {
  const cell = event.target.closest?.('.cmp-cells li');
  all('.cmp-cells li.is-twin').forEach(li => li.classList.remove('is-twin'));
  if (cell) all(`.cmp-cells li[data-i="${cell.dataset.i}"]`).forEach(li => li.classList.add('is-twin'));
});
new MutationObserver(records => { // another comparison has taken the place of this one
  if (records.some(r => [...r.addedNodes].some(n => n.querySelector?.('.cmp-viewer') || n.classList?.contains('cmp-viewer')))) apply();
}).observe(element, { childList: true, subtree: true });
apply();
