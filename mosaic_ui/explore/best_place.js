// The curve is drawn for one plan. As soon as a line is elsewhere, or the plan or the sampler changes, it is marked as old: grey, without
// the mark "here", until the next answer stands in its place. The chart writes where its lines are to the card (stage_chart.js).
const card = () => element.closest('.axis-card');

function mark(old) {
  const drawn = element.querySelector('.places');
  if (drawn) { drawn.classList.toggle('is-old', old); drawn.setAttribute('aria-busy', old); }
}

function look() {
  const drawn = element.querySelector('.places'), now = card()?.dataset.boundaries;
  mark(drawn !== null && now !== undefined && drawn.dataset.boundaries !== now);
}

function begin() {
  if (!card()) { requestAnimationFrame(begin); return; }
  new MutationObserver(look).observe(card(), { attributeFilter: ['data-boundaries'] });
  new MutationObserver(look).observe(element, { childList: true, subtree: true }); // an answer
  look();
}

window.mosaicOldPlaces = () => mark(true);
begin();
