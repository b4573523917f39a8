// The downloads of a comparison: a button's file is made by the server now, from the id of the comparison, and saved by the
// browser under the button's name; a text goes into the clipboard (both in copy.js). `element` holds the markup of downloads.py, which
// may be replaced at any time.
element.addEventListener('click', async event => {
  const button = event.target.closest('button.cmp-get');
  if (!button || button.getAttribute('aria-disabled') === 'true') return; // one file per press, and the focus stays
  const group = button.closest('.cmp-downloads'), said = group.querySelector('.cmp-made');
  button.setAttribute('aria-disabled', 'true');
  try {
    if (button.dataset.text) await text(group, button, said);
    else await file(group, button, said);
  } catch {
    said.textContent = 'The file could not be had: the studio does not answer. Try again.';
  }
  button.removeAttribute('aria-disabled');
});

async function file(group, button, said) {
  said.textContent = 'Making the file …';
  const made = await server.make_file([group.dataset.id, button.dataset.file]);
  said.textContent = made.said ?? '';
  if (made.address) await saveFile(made.address, button.dataset.name);
}

async function text(group, button, said) {
  const made = await server.make_text([group.dataset.id, button.dataset.text]);
  if (made.text) await copyText(made.text, group.parentElement.querySelector('.along-code'));
  said.textContent = made.said ?? 'Copied.';
}
