// The present view: one scene fills the window, arrow keys go on, F fills the screen, Esc leaves.
async function present(back) {
  let scenes = [], at = 0;
  const ends = () => { if (document.fullscreenElement) document.exitFullscreen(); };
  const go = by => { if (scenes[at + by]) { at += by; show(); } };
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : view.requestFullscreen?.()?.catch(() => {}));
  const keys = {
    ArrowRight: () => go(1), ArrowDown: () => go(1), PageDown: () => go(1), ArrowLeft: () => go(-1), ArrowUp: () => go(-1), PageUp: () => go(-1),
    Home: () => go(-at), End: () => go(scenes.length - 1 - at), f: full, F: full,
  };
  const { dialog, view } = openDialog('present', 'Present', keys, ends, back, '.present-foot button:not(:disabled)');
  const body = make('div', 'present-scene', 'Making the scenes …');
  const where = make('span', 'present-where'), before = press('←', () => go(-1)), after = press('→', () => go(1));
  before.setAttribute('aria-label', 'Scene before');
  after.setAttribute('aria-label', 'Next scene');
  body.setAttribute('aria-live', 'polite');
  const whole = press('Full screen (F)', full), leave = press('Leave (Esc)', () => dialog.close());
  view.append(body, make('div', 'present-foot', before, where, after, whole, leave));
  after.focus();

  function show() {
    const { kind, title, html } = scenes[at];
    body.dataset.scene = kind;
    body.replaceChildren(make('h2', '', title), filled('div', `present-body of-${kind}`, html));
    where.textContent = `${at + 1} of ${scenes.length}`;
    before.disabled = at === 0;
    after.disabled = at === scenes.length - 1;
    if (!dialog.contains(document.activeElement) || document.activeElement.disabled) (after.disabled ? before : after).focus();
  }

  const query = window.mosaic?.query ?? '', id = document.querySelector('.cmp-viewer')?.dataset.id ?? '';
  let found;
  try { found = await server.present_scenes([query, id]); } catch { found = { said: 'The server does not answer: is it still running?' }; }
  if (!dialog.isConnected) return;
  if (!found.scenes) { body.replaceChildren(make('p', '', found.said)); return; }
  scenes = found.scenes;
  show();
}

return { tour, present };
