// What tour and present view have in common: a modal dialog that keeps the focus and gives it back, and small helpers.
const visitor = crypto.getRandomValues(new Uint32Array(4)).join('-');

function make(tag, name = '', ...inside) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside);
  if (tag === 'button') node.type = 'button';
  return node;
}

function filled(tag, name, html) {
  const node = make(tag, name);
  node.innerHTML = html;
  return node;
}

function press(words, act, name = '') {
  const button = make('button', name, words);
  button.addEventListener('click', act);
  return button;
}

function pictures(addresses, words) {
  return addresses.map((src, i) => Object.assign(document.createElement('img'), { src, alt: `${words}, picture ${i + 1}` }));
}

// Esc closes the innermost thing: an explained word, then the full screen, then the dialog itself.
function closeInner(dialog) {
  const word = dialog.querySelector('.tour-word:is(:hover, :focus-visible):not(.is-closed)');
  if (word) {
    word.classList.add('is-closed');
    for (const ends of ['blur', 'pointerleave']) word.addEventListener(ends, () => word.classList.remove('is-closed'), { once: true });
  } else if (document.fullscreenElement) document.exitFullscreen();
  else return false;
  return true;
}

// `keys`: key -> what it does, wherever the focus is; `left`: what happens when it closes; `rest`: selector of what takes the focus
// that was lost with what had it
function openDialog(name, label, keys, left, back, rest) {
  const dialog = make('dialog', `tour-dialog ${name}`), view = make('div', 'tour-view');
  dialog.setAttribute('aria-label', label);
  dialog.append(view);
  (document.querySelector('.gradio-container') ?? document.body).append(dialog);
  const pressed = event => {
    event.stopPropagation(); // the keys of the page below are not meant
    if (!dialog.contains(document.activeElement)) dialog.querySelector(rest)?.focus();
    if (event.key === 'Tab') return keepInside(event, dialog);
    if (event.key === 'Escape' && closeInner(dialog)) return event.preventDefault();
    if (event.ctrlKey || event.altKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  };
  document.addEventListener('keydown', pressed, true); // also while nothing in the dialog has the focus
  dialog.addEventListener('close', () => {
    document.removeEventListener('keydown', pressed, true);
    left();
    dialog.remove();
    back?.focus();
  });
  dialog.showModal();
  return { dialog, view };
}

function keepInside(event, dialog) {
  const stops = [...dialog.querySelectorAll('button, input, [tabindex="0"]')].filter(one => !one.disabled && one.checkVisibility());
  const first = stops[0], last = stops.at(-1), at = document.activeElement;
  const wrap = event.shiftKey ? at === first && last : at === last && first;
  if (!wrap && dialog.contains(at)) return;
  event.preventDefault();
  (wrap || first)?.focus();
}
