// The mean sparsity in the sentence above the chart is a slider: dragged sideways, or moved by keys. `props.value` is the sentence as
// HTML; a new one is put round the handle that is there, so that neither the pointer nor the focus loses it. trigger('input') while it
// moves, trigger('release') at the end; Python reads the share from window.mosaicMean, null where nothing is changed in the end.
const SEND_EVERY_MS = 80; // at most about 12 'input' events a second
const KEYS_REST_MS = 150; // one 'release' when the keys rest, not one per key
const PIXELS = 4; // of a drag, for one per cent
const PATIENCE_MS = 5000; // after which the number of the last answer counts
const says = element.querySelector('.says');
let grab = null; // {id, x, from}: the pointer, where it went down, the per cent there
let wanted = null; // per cent that the hand asked for, until an answer is about it
let timer = null, lastSent = 0, until = null;

const handle = () => says.querySelector('[role=slider]');
const now = () => Number(handle().getAttribute('aria-valuenow'));

function show(percent) {
  const one = handle();
  one.setAttribute('aria-valuenow', percent);
  one.setAttribute('aria-valuetext', `${percent} %`);
  one.textContent = `${percent} %`;
}

function draw() {
  const fresh = document.createElement('template');
  fresh.innerHTML = props.value || '';
  const old = handle(), next = fresh.content.querySelector('[role=slider]');
  if (!old || !next) { says.replaceChildren(fresh.content); grab = null; wanted = null; return; }
  const percent = Number(next.getAttribute('aria-valuenow'));
  if (!grab && timer === null && (next.dataset.refused || percent === wanted)) wanted = null;
  const nodes = [...next.parentNode.childNodes], place = nodes.indexOf(next);
  for (const node of [...old.parentNode.childNodes]) if (node !== old) node.remove();
  old.before(...nodes.slice(0, place));
  old.after(...nodes.slice(place + 1));
  show(wanted ?? percent);
}

function send(event, percent) {
  clearTimeout(timer);
  timer = null;
  lastSent = performance.now();
  window.mosaicMean = percent === null ? null : percent / 100;
  trigger(event);
}

function sendSoon(event, ms) { // throttled, and the last number is never lost
  timer ??= setTimeout(() => send(event, wanted), ms);
}

function want(percent) {
  const one = handle(), low = Number(one.getAttribute('aria-valuemin')), high = Number(one.getAttribute('aria-valuemax'));
  const next = Math.min(high, Math.max(low, Math.round(percent)));
  if (next === now()) return false;
  wanted = next;
  show(next);
  clearTimeout(until);
  until = setTimeout(() => { if (!grab) { wanted = null; draw(); } }, PATIENCE_MS);
  return true;
}

function drop(back) {
  const from = grab.from;
  handle()?.classList.remove('active');
  grab = null;
  if (wanted === null) return; // a press that moved nothing
  if (back) show(from);
  if (back || wanted === from) { wanted = null; send('release', null); } else send('release', wanted);
}

element.addEventListener('pointerdown', event => {
  const one = handle();
  if (event.button || grab || !one || !one.contains(event.target)) return;
  event.preventDefault(); // no text is marked
  grab = { id: event.pointerId, x: event.clientX, from: now() };
  one.setPointerCapture(event.pointerId);
  one.classList.add('active');
  one.focus({ focusVisible: false }); // the ring is for keys only
});
element.addEventListener('pointermove', event => {
  if (!grab || event.pointerId !== grab.id) return;
  if (want(grab.from + (event.clientX - grab.x) / PIXELS)) sendSoon('input', Math.max(0, SEND_EVERY_MS - (performance.now() - lastSent)));
});
element.addEventListener('pointerup', event => { if (grab && event.pointerId === grab.id) drop(false); });
// The browser took the touch, to scroll the page: the hand did not mean the number.
element.addEventListener('pointercancel', event => { if (grab && event.pointerId === grab.id) drop(true); });
element.addEventListener('keydown', event => {
  const one = handle();
  if (!one || event.target !== one || grab) return;
  const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
  const to = { Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined && to === undefined) return;
  event.preventDefault();
  if (!want(to ?? now() + by)) return;
  clearTimeout(timer);
  timer = null;
  sendSoon('release', KEYS_REST_MS);
});
// Esc while the number is held puts it back where the drag began.
document.addEventListener('keydown', event => {
  if (event.key !== 'Escape' || !grab) return;
  event.preventDefault();
  drop(true);
});

draw();
watch('value', draw);
