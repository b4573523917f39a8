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

// `keys`: key -> what it does, wherever the focus is in the dialog; `left`: what happens when it closes
function openDialog(name, label, keys, left, back) {
  const dialog = make('dialog', `tour-dialog ${name}`), view = make('div', 'tour-view');
  dialog.setAttribute('aria-label', label);
  dialog.append(view);
  (document.querySelector('.gradio-container') ?? document.body).append(dialog);
  dialog.addEventListener('keydown', event => {
    event.stopPropagation(); // the keys of the page below are not meant
    if (event.key === 'Tab') return keepInside(event, dialog);
    if (event.ctrlKey || event.altKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  dialog.addEventListener('close', () => {
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
