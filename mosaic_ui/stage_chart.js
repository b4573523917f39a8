// One Plotly chart with stage bands and draggable boundaries above it. `props.value` is what Python sees: the boundaries,
// low then high (an empty list: a chart without handles). `props.figure` is the JSON text of {data, layout}, and for a chart with handles
// `steps`, the timesteps that the sampler visits, and `suggested`, where a double click takes a line. Python fills in the options.
const { lower, upper, label, names, colours } = OPTIONS;
const SEND_EVERY_MS = 80; // at most about 12 'input' events a second
const KEYS_REST_MS = 150; // one 'release' when the keys rest, not one per key
const TOUCHING_PX = 8; // two lines nearer than this cannot be aimed at one by one
const ONE_ROW_PX = 30; // of a legend: the figure's own margin holds as much
const MEANT_PX = 3; // a move shorter than this says nothing about where the hand wants to go
const chart = element.querySelector('.stage-chart');
const plot = element.querySelector('.plot');
const bands = element.querySelector('.bands');
const rail = element.querySelector('.handles');
const ticks = element.querySelector('.steps');
let boundaries = [...(props.value || [])];
let grab = null; // {id, x, i, by, from, moved}: the pointer, where it went down, the boundary it moves (null until the first move tells), how
// far beside its line, the boundaries before the drag, whether it moved one
let lastSent = 0, timer = null;
let wide = []; // pixels of each stage's name
let axisEnds = ''; // as what stands below the chart knows them
let extra = 0; // pixels that the legend's further rows add to the chart
let read = null, parsed = null; // the text of the figure that was read last, and what it says

chart.setAttribute('aria-label', label);

function figure() {
  if (props.figure !== read) {
    read = props.figure;
    parsed = read ? JSON.parse(read) : null;
  }
  return parsed;
}

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
  if (!at || !boundaries.length || !rail.clientWidth) return; // in a tab that is hidden nothing has a width; it is placed when shown
  const edges = [lower, ...boundaries, upper].map(at.toPixel);
  const box = { top: at.top + 'px', height: at.height + 'px' };
  [...bands.children].forEach((band, i) => {
    const width = edges[i + 1] - edges[i];
    Object.assign(band.style, box, { left: edges[i] + 'px', width: Math.max(0, width) + 'px' });
    band.firstChild.style.visibility = width < wide[i] ? 'hidden' : 'visible';
  });
  [...rail.children].forEach((handle, i) => {
    Object.assign(handle.style, box, { left: edges[i + 1] + 'px' });
    handle.firstChild.textContent = 't = ' + boundaries[i];
    handle.setAttribute('aria-valuenow', boundaries[i]);
    handle.setAttribute('aria-valuemin', clamp(-Infinity, i));
    handle.setAttribute('aria-valuemax', clamp(Infinity, i));
    handle.setAttribute('aria-valuetext', `timestep ${boundaries[i]}, between ${names[i]} and ${names[i + 1]}`);
  });
  placeTags(edges.slice(1, -1));
  placeSteps(at);
  tellLines();
}

// What stands below the chart in the same card is drawn for some boundaries, and learns here that the lines are elsewhere.
function tellLines() {
  const card = element.closest('.axis-card'), now = boundaries.join(',');
  if (card && card.dataset.boundaries !== now) card.dataset.boundaries = now;
}

// A tick under the axis for each run of the network, in the colour of the stage that it falls into now. What stands below the chart in
// the same card is drawn on the same axis: it finds its ends in --plot-left and --plot-width.
function placeSteps(at) {
  const left = at.toPixel(lower), width = at.toPixel(upper) - left;
  Object.assign(ticks.style, { left: left + 'px', top: at.top + at.height + 'px', width: width + 'px' });
  const lines = names.map(() => '');
  for (const t of figure()?.steps || []) {
    lines[boundaries.filter(b => t >= b).length] += `M${(at.toPixel(t) - left).toFixed(1)} 2v7`;
  }
  [...ticks.children].forEach((path, i) => path.setAttribute('d', lines[i]));
  const card = element.closest('.axis-card');
  const ends = left + 'px ' + width + 'px';
  if (!card || ends === axisEnds) return; // a drag moves neither, and every setting costs a new layout
  axisEnds = ends;
  card.style.setProperty('--plot-left', left + 'px');
  card.style.setProperty('--plot-width', width + 'px');
}

// Each tag stands centred above its line, beside the other tag where the lines are near, and always inside the chart.
function placeTags(lines) {
  const handles = [...rail.children], width = handles.map(handle => handle.firstChild.offsetWidth);
  let left = lines.map((x, i) => x - width[i] / 2);
  if (left[0] + width[0] + 2 > left[1]) {
    const middle = (lines[0] + lines[1]) / 2;
    left = [middle - 1 - width[0], middle + 1];
  }
  left[1] = Math.min(left[1], rail.clientWidth - width[1]);
  left[0] = Math.max(0, Math.min(left[0], left[1] - 2 - width[0]));
  left[1] = Math.max(left[1], left[0] + width[0] + 2);
  handles.forEach((handle, i) => { handle.firstChild.style.left = left[i] - lines[i] + handle.offsetWidth / 2 + 'px'; });
}

function linesAt() {
  return boundaries.map(axes().toPixel);
}

// Which boundary a press takes: the tag's own, else the nearer line, or null where both lie so close that only the move can tell.
function choose(event, i) {
  const lines = linesAt(), from = event.clientX - plot.getBoundingClientRect().left;
  if (lines[1] - lines[0] < TOUCHING_PX) return null;
  if (event.target.className === 'tag') return i;
  return Math.abs(from - lines[0]) <= Math.abs(from - lines[1]) ? 0 : 1;
}

function take(i) {
  grab.i = i;
  grab.by = grab.x - plot.getBoundingClientRect().left - linesAt()[i]; // a tag stands beside its line: the line must not jump to the pointer
  rail.children[i].classList.add('active');
  rail.children[i].focus({ focusVisible: false }); // the ring is for keys only
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
    if (event.button || grab) return;
    grab = { id: event.pointerId, x: event.clientX, i: null, by: 0, from: [...boundaries], moved: false };
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
    const near = choose(event, i);
    if (near !== null) take(near);
  });
  handle.addEventListener('pointermove', event => {
    if (!grab || event.pointerId !== grab.id) return;
    const by = event.clientX - grab.x;
    if (grab.i === null && Math.abs(by) >= MEANT_PX) take(by < 0 ? 0 : 1);
    if (grab.i === null) return;
    const next = clamp(axes().toTimestep(event.clientX - grab.by), grab.i);
    if (next === boundaries[grab.i]) return;
    boundaries[grab.i] = next;
    grab.moved = true;
    place();
    sendSoon('input', Math.max(0, SEND_EVERY_MS - (performance.now() - lastSent)));
  });
  const drop = event => {
    if (!grab || event.pointerId !== grab.id) return;
    const { i: held, moved } = grab;
    grab = null;
    if (held === null) return; // a press between two lines that moved neither
    rail.children[held].classList.remove('active');
    if (moved) send('release');
  };
  handle.addEventListener('pointerup', drop);
  handle.addEventListener('pointercancel', drop);
  handle.addEventListener('dblclick', () => suggest(i));
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

// Puts one line where the rule suggests it; the other stays.
function suggest(i) {
  const places = figure()?.suggested;
  if (!places || clamp(places[i], i) === boundaries[i]) return;
  boundaries[i] = clamp(places[i], i);
  place();
  send('release');
}

// Esc while a line is held puts it back where the drag began.
document.addEventListener('keydown', event => {
  if (event.key !== 'Escape' || !grab) return;
  event.preventDefault();
  const { i: held, from, moved } = grab;
  grab = null;
  if (held !== null) rail.children[held].classList.remove('active');
  boundaries = from;
  place();
  if (moved) send('release');
});

function build() {
  if (!boundaries.length) return;
  const pen = document.createElement('canvas').getContext('2d');
  pen.font = `600 12px ${getComputedStyle(element).fontFamily}`;
  wide = names.map(name => Math.floor(pen.measureText(name).width));
  bands.replaceChildren(...names.map((name, i) => {
    const band = document.createElement('div');
    band.className = 'band';
    band.style.setProperty('--stage', colours[i]);
    band.appendChild(document.createElement('span')).textContent = name;
    return band;
  }));
  rail.replaceChildren(...boundaries.map((_, i) => makeHandle(i)));
  ticks.replaceChildren(...colours.map(colour => {
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.style.stroke = colour;
    return path;
  }));
}

// Colours follow light and dark, sizes follow the width: 'INK' in a figure stands for the page's text colour.
function themed(text) {
  const ink = getComputedStyle(element).getPropertyValue('--body-text-color').trim() || '#222';
  const { data, layout } = JSON.parse(text.replaceAll('"INK"', JSON.stringify(ink)));
  const narrow = plot.clientWidth < 560;
  if (narrow) layout.annotations?.forEach(one => { one.text = one.text.replace('max score', 'max'); }); // clear of the second line
  const margin = { b: 48, ...layout.margin, ...(narrow ? { l: 46, r: 10 } : {}) };
  return { data, layout: { ...layout, autosize: true, dragmode: false, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: getComputedStyle(element).fontFamily, size: narrow ? 12 : 13, color: ink }, margin: { ...margin, b: margin.b + extra } } };
}

// A legend of several rows makes the chart taller by what they need, so that it neither covers the axis nor shrinks the curves.
function makeRoom() {
  const legend = figure()?.layout.legend && plot.querySelector('.legend .bg');
  const rows = legend ? Math.ceil(legend.getBoundingClientRect().height) : 0;
  const needed = Math.max(0, rows - ONE_ROW_PX);
  if (!plot.clientWidth || needed === extra) return false;
  extra = needed;
  plot.style.setProperty('--legend-rows', extra + 'px');
  return true;
}

function draw() {
  if (!window.Plotly) { setTimeout(draw, 40); return; } // the script of a second chart may still be on its way
  const show = () => {
    const { data, layout } = themed(props.figure || '{"data": [], "layout": {}}');
    Plotly.react(plot, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  };
  show();
  if (makeRoom()) show();
  if (!plot.dataset.hooked) {
    plot.dataset.hooked = 'yes';
    plot.on('plotly_afterplot', place); // first paint, resize, theme, new data
    let width = plot.clientWidth;
    new ResizeObserver(() => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth; // 0 while the tab is hidden: whatever came meanwhile is drawn when it is shown
      if (width) draw();
    }).observe(plot);
  }
  place();
}

build();
draw();
watch('figure', draw);
watch('value', () => {
  if (grab || timer !== null) return; // never pull a line from under the pointer or the keys
  boundaries = [...(props.value || [])];
  place();
});
new MutationObserver(draw).observe(document.body, { attributeFilter: ['class'] });
