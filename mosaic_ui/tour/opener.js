// Two buttons: style and script of what they open are asked for at the first press. The tour is offered once, to a first visitor, and
// that it was offered is kept in this browser (a private window keeps nothing, and offers again).
const KEY = 'mosaic-tour', offer = element.querySelector('.tour-offer');
let views = null; // of both, once they are there

function offered() {
  try {
    const before = localStorage.getItem(KEY);
    localStorage.setItem(KEY, 'offered');
    return before !== null;
  } catch { return false; }
}

async function open(name, button) {
  if (!views) offer.hidden = true; // later it tells how far a calibration is
  if (!views) {
    button.setAttribute('aria-busy', 'true');
    try {
      const parts = await server.tour_parts(null);
      document.head.append(Object.assign(document.createElement('style'), { textContent: parts.style }));
      views = new Function('server', 'line', 'measured', parts.script)(server, offer, () => trigger('submit'));
    } finally { button.removeAttribute('aria-busy'); }
  }
  views[name](button);
}

element.addEventListener('click', event => {
  const button = event.target.closest('[data-open]');
  if (button && !button.hasAttribute('aria-busy')) open(button.dataset.open, button);
});
offer.hidden = offered();
