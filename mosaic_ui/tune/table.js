// The points of a tune: rows come as HTML in props.value. A button of any row, or a click into the plot, names its point
// in window.mosaicTunePoint, which Python reads: trigger('input') opens it in Explore, trigger('submit') in Compare.
const place = element.querySelector('.tune-points');

function draw() { // while a tune runs rows come again and again: what is open and has the focus stays so
  const open = place.querySelector('details')?.open, at = document.activeElement;
  const held = place.contains(at) ? at.dataset : null, { open: to, point } = held ?? {};
  place.innerHTML = props.value || '';
  if (open && place.querySelector('details')) place.querySelector('details').open = true;
  if (point) place.querySelector(`button[data-open="${to}"][data-point="${CSS.escape(point)}"]`)?.focus();
}

function ask(point, to) {
  window.mosaicTunePoint = point;
  scrollTo({ top: 0, behavior: 'instant' }); // what opens, or why it cannot, begins at the top
  trigger(to === 'compare' ? 'submit' : 'input');
}

function show(point) {
  const row = place.querySelector(`tr[data-point="${CSS.escape(point)}"]`);
  if (!row) return;
  const folded = row.closest('details');
  if (folded) folded.open = true;
  row.scrollIntoView({ block: 'center' });
  row.classList.remove('is-shown');
  requestAnimationFrame(() => row.classList.add('is-shown'));
  row.querySelector('button')?.focus({ focusVisible: true });
}

document.addEventListener('click', event => { // the buttons of the best stand outside this element
  const button = event.target.closest?.('[data-open][data-point]');
  if (button) ask(button.dataset.point, button.dataset.open);
});

// A finger cannot hover: its first touch names the point, so it only leads to the row with both buttons.
setInterval(() => {
  const plot = document.querySelector('#tune-front .js-plotly-plot');
  if (!plot || plot.dataset.clicks) return;
  plot.dataset.clicks = 'yes';
  plot.on('plotly_click', event => {
    const point = event.points[0].customdata;
    if (!point) return;
    const plan = place.querySelector(`button[data-point="${CSS.escape(point)}"]`);
    if (plan && matchMedia('(hover: hover)').matches) ask(point, 'explore');
    else show(point);
  });
}, 500);

draw();
watch('value', draw);
