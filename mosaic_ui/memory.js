// What the whole page does in the browser: the address follows the plan and the tab, a draft is kept, keys undo, the
// title tells progress. `mark` numbers what a hand does: all edits of one drag or of one series of keys have one number.
const OWN = ['plan', 'scheduler', 'steps', 'seed', 'tab', 'from']; // of the address; all else in it stays
const MOST_SEED = 2 ** 31 - 1;
const SERIES_MS = 900; // keys that follow each other sooner are one edit
const SETTLE_MS = 400; // in which Gradio opens the tab that an address asks for
const opening = OPENING;
const title = document.title;
const place = `mosaic-draft:${location.pathname}`;
let link = null; // the query of the plan in hand; null: the address stays as it came
let tab = new URLSearchParams(location.search).get('tab') || 'explore';
let ready = false; // until the page has taken over what its address brings, a tab that opens is not a visitor's choice
let back = false; // a tab that Back opens is no new page of the history
let key = { at: 0, target: null };

function address(query) {
  const kept = new URLSearchParams(location.search), own = new URLSearchParams(query ?? '');
  for (const name of OWN) if (name === 'from' || query !== null || name === 'tab') kept.delete(name);
  for (const [name, value] of own) kept.set(name, value);
  kept.set('tab', tab);
  return `${location.pathname}?${kept}`;
}

function write(push = false) {
  history[push ? 'pushState' : 'replaceState']({ tab }, '', address(link));
}

function open(name) { // a tab may stand in Gradio's overflow menu, where it has only its words
  const tabs = document.querySelector('#studio-tabs');
  const words = [...tabs.querySelectorAll('.overflow-dropdown button')];
  (tabs.querySelector(`[role=tab][data-tab-id="${CSS.escape(name)}"]`) ?? words.find(one => one.textContent.trim().toLowerCase().endsWith(name)))?.click();
}

window.mosaic = {
  mark: 0,
  get query() { return link ?? opening; }, // of the plan in hand
  follow(query) {
    link = query;
    write();
    try { localStorage.setItem(place, JSON.stringify({ opening, link })); } catch { /* a private window keeps none */ }
  },
  seed(value) { // at once; the server, which may be busy, says the same of the whole query
    if (!ready) return;
    const own = new URLSearchParams(link ?? opening);
    if (Number.isInteger(value) && value >= 0 && value <= MOST_SEED) own.set('seed', value);
    else own.delete('seed');
    this.follow(String(own));
  },
  tab(name) {
    const chosen = ready && !back && name !== tab;
    back = false;
    if (name === tab) return;
    tab = name;
    if (ready) write(chosen);
  },
  arrived(place) { // what was opened by the address
    tab = place;
    setTimeout(() => { ready = true; write(); }, SETTLE_MS);
  },
  async copy() {
    const whole = location.origin + address(link ?? opening), button = document.querySelector('#page-copy');
    try { await navigator.clipboard.writeText(whole); } catch { // neither https nor this machine
      const box = document.body.appendChild(Object.assign(document.createElement('textarea'), { value: whole }));
      box.select();
      document.execCommand('copy');
      box.remove();
    }
    const words = button.textContent;
    button.textContent = 'Link copied';
    setTimeout(() => { button.textContent = words; }, 1600);
  },
};

history.replaceState({ tab }, '', location.href);
addEventListener('popstate', event => {
  const to = event.state?.tab;
  if (!to || to === tab) return;
  back = true;
  open(to);
});

// ---------------------------------------------------------------- one edit, one step

addEventListener('pointerdown', () => { window.mosaic.mark += 1; key.at = 0; }, true);
addEventListener('keydown', event => {
  if (['Shift', 'Control', 'Alt', 'Meta', 'Tab'].includes(event.key)) return;
  const now = performance.now();
  if (now - key.at > SERIES_MS || key.target !== event.target) window.mosaic.mark += 1;
  key = { at: event.key === 'Enter' ? 0 : now, target: event.target };
}, true);

function writes(element) { // where the keys belong to the text
  if (element.isContentEditable || element.tagName === 'TEXTAREA') return true;
  return element.tagName === 'INPUT' && !['range', 'checkbox', 'radio', 'button'].includes(element.type);
}

addEventListener('keydown', event => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || writes(event.target)) return;
  const pressed = event.key.toLowerCase();
  const redo = pressed === 'y' && !event.shiftKey || pressed === 'z' && event.shiftKey;
  if (!redo && pressed !== 'z') return;
  event.preventDefault();
  key.at = 0;
  document.querySelector(redo ? '#page-redo' : '#page-undo')?.click();
});

// ---------------------------------------------------------------- the title

setInterval(() => {
  const bar = document.querySelector('.cmp-live [role=progressbar], .job[role=progressbar]');
  const now = bar ? `${bar.getAttribute('aria-valuenow')} % · ${title}` : title;
  if (document.title !== now) document.title = now;
}, 500);
