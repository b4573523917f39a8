// One Plotly chart with stage bands and draggable boundaries above it. `props.value` is what Python sees: the boundaries,
// low then high (an empty list: a chart without handles). `props.figure` is {data, layout}. Python fills in the options.
const { lower, upper, label, names, colours } = OPTIONS;
const SEND_EVERY_MS = 80; // at most about 12 'input' events a second
const KEYS_REST_MS = 150; // one 'release' when the keys rest, not one per key
const chart = element.querySelector('.stage-chart');
const plot = element.querySelector('.plot');
const bands = element.querySelector('.bands');
const rail = element.querySelector('.handles');
let boundaries = [...(props.value || [])];
let dragging = null, lastSent = 0, timer = null;

chart.setAttribute('aria-label', label);

function clamp(value, i) {
  const low = (i > 0 ? boundaries[i - 1] : lower) + 1;
  const high = (i < boundaries.length - 1 ? boundaries[i + 1] : upper) - 1;
  return Math.min(high, Math.max(low, Math.round(value)));
}

function send(event) {
  clearTimeout(timer);
  timer = null;
  lastSent = performance.now();
  props.value = [...boundaries]; // a new array: a change in place goes unnoticed
  trigger(event);
}

function sendSoon(event, ms) { // throttled, and the last position is never lost
  timer ??= setTimeout(() => send(event), ms);
}

// The only place that touches plotly.js internals (_fullLayout, _offset, _length, d2p, p2d); a browser test stands on it.
function axes() {
  const full = plot._fullLayout;
  if (!full || !full.xaxis || !full.yaxis) return null;
  const { xaxis: x, yaxis: y } = full;
  return {
    top: y._offset, height: y._length,
    toPixel: value => x._offset + x.d2p(value),
    toTimestep: clientX => x.p2d(clientX - plot.getBoundingClientRect().left - x._offset),
  };
}

function place() {
  const at = axes();
  if (!at || !boundaries.length) return;
  const edges = [lower, ...boundaries, upper].map(at.toPixel);
  const box = { top: at.top + 'px', height: at.height + 'px' };
  [...bands.children].forEach((band, i) => {
    const width = edges[i + 1] - edges[i];
    Object.assign(band.style, box, { left: edges[i] + 'px', width: Math.max(0, width) + 'px' });
    band.firstChild.style.visibility = width < 9 * names[i].length ? 'hidden' : 'visible';
  });
  [...rail.children].forEach((handle, i) => {
    Object.assign(handle.style, box, { left: edges[i + 1] + 'px' });
    handle.firstChild.textContent = 't = ' + boundaries[i];
    handle.setAttribute('aria-valuenow', boundaries[i]);
    handle.setAttribute('aria-valuemin', clamp(-Infinity, i));
    handle.setAttribute('aria-valuemax', clamp(Infinity, i));
    handle.setAttribute('aria-valuetext', `timestep ${boundaries[i]}, between ${names[i]} and ${names[i + 1]}`);
  });
  rail.classList.toggle('tight', edges[2] - edges[1] < 72);
}

function makeHandle(i) {
  const handle = document.createElement('div');
  handle.className = 'handle';
  handle.tabIndex = 0;
  handle.setAttribute('role', 'slider');
  handle.setAttribute('aria-label', 'Stage boundary ' + (i + 1));
  handle.setAttribute('aria-orientation', 'horizontal');
  handle.appendChild(document.createElement('span')).className = 'tag';
  handle.addEventListener('pointerdown', event => {
    if (event.button) return;
    dragging = i;
    handle.classList.add('active');
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
    handle.focus({ focusVisible: false }); // the ring is for keys only
  });
  handle.addEventListener('pointermove', event => {
    if (dragging !== i) return;
    const next = clamp(axes().toTimestep(event.clientX), i);
    if (next === boundaries[i]) return;
    boundaries[i] = next;
    place();
    sendSoon('input', Math.max(0, SEND_EVERY_MS - (performance.now() - lastSent)));
  });
  const drop = () => {
    if (dragging !== i) return;
    dragging = null;
    handle.classList.remove('active');
    send('release');
  };
  handle.addEventListener('pointerup', drop);
  handle.addEventListener('pointercancel', drop);
  handle.addEventListener('keydown', event => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    const to = { Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    boundaries[i] = clamp(to ?? boundaries[i] + by * (event.shiftKey ? 10 : 1), i);
    place();
    clearTimeout(timer);
    timer = null;
    sendSoon('release', KEYS_REST_MS);
  });
  return handle;
}

function build() {
  if (!boundaries.length) return;
  bands.replaceChildren(...names.map((name, i) => {
    const band = document.createElement('div');
    band.className = 'band';
    band.style.setProperty('--stage', colours[i]);
    band.appendChild(document.createElement('span')).textContent = name;
    return band;
  }));
  rail.replaceChildren(...boundaries.map((_, i) => makeHandle(i)));
}

// Colours follow light and dark, sizes follow the width: 'INK' in a figure stands for the page's text colour.
function themed(figure) {
  const ink = getComputedStyle(element).getPropertyValue('--body-text-color').trim() || '#222';
  const { data, layout } = JSON.parse(JSON.stringify(figure).replaceAll('"INK"', JSON.stringify(ink)));
  const narrow = plot.clientWidth < 560, margin = layout.margin || {};
  const stacked = layout.legend ? 18 * Math.max(0, data.filter(trace => trace.name).length - 1) - 8 : 0; // a narrow legend has one entry a row
  return { data, layout: { ...layout, autosize: true, dragmode: false, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: getComputedStyle(element).fontFamily, size: narrow ? 11 : 13, color: ink },
    margin: { ...margin, ...(narrow ? { l: 46, r: 10, b: (margin.b || 48) + stacked } : {}) } } };
}

function draw() {
  if (!window.Plotly) { setTimeout(draw, 40); return; } // the script of a second chart may still be on its way
  const { data, layout } = themed(props.figure || { data: [], layout: {} });
  Plotly.react(plot, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  if (!plot.dataset.hooked) {
    plot.dataset.hooked = 'yes';
    plot.on('plotly_afterplot', place); // first paint, resize, theme, new data
    let width = plot.clientWidth;
    new ResizeObserver(() => {
      if (!plot.clientWidth || plot.clientWidth === width) return;
      width = plot.clientWidth;
      draw();
    }).observe(plot);
  }
  place();
}

build();
draw();
watch('figure', draw);
watch('value', () => {
  if (dragging !== null || timer !== null) return; // never pull a line from under the pointer or the keys
  boundaries = [...(props.value || [])];
  place();
});
new MutationObserver(draw).observe(document.body, { attributeFilter: ['class'] });
