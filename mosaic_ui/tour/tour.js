// The guided tour: one step at a time, each with one control. Left and right go from step to step, up and down move what slides, Enter
// presses what has the focus, Esc leaves. Every picture is asked of the server when its step is opened.
const FRAME_MS = 260, SETTLE_MS = 180;
const moving = () => !matchMedia('(prefers-reduced-motion: reduce)').matches;

async function tour(back) {
  let facts = null, at = 0, seed = 0, cuts = null, dense = null, timer = 0, asked = 0;
  const shown = {}; // what a step has found, by kind, for as long as the tour is open
  const go = by => { if (facts?.steps[at + by]) { at += by; show(); } else if (facts && by > 0 && at === facts.steps.length - 1) dialog.close(); };
  const slide = by => {
    const ranges = [...todo.querySelectorAll('input[type=range]')];
    slideOf(ranges.find(one => one === document.activeElement) ?? ranges[0], by);
  };
  const keys = { ArrowRight: () => go(1), ArrowLeft: () => go(-1), ArrowUp: () => slide(1), ArrowDown: () => slide(-1) };
  const { dialog, view } = openDialog('tour', 'Tour', keys, leave, back, '.tour-next');
  const title = make('h2'), text = make('p', 'tour-text'), todo = make('div', 'tour-todo'), said = make('p', 'tour-said'), stage = make('div', 'tour-stage');
  const where = make('span', 'tour-where'), before = press('Back', () => go(-1)), after = press('Next', () => go(1), 'tour-next');
  const hint = make('span', 'tour-keys');
  const close = press('×', () => dialog.close(), 'tour-close');
  close.setAttribute('aria-label', 'Leave the tour');
  title.tabIndex = -1;
  said.setAttribute('role', 'status');
  view.append(
    make('div', 'tour-words', title, text, todo, said), stage,
    make('div', 'tour-foot', where, hint, measuringLine('Preparing steps 5 to 7:', 'tour-behind'), before, after), close,
  );
  after.focus();

  function leave() {
    clearTimeout(timer);
    server.tour_ask([visitor, 'leave', []]).catch(() => {});
  }

  function slideOf(range, by) {
    if (!range) return; // this step has nothing that slides
    range.value = +range.value + by * (range.dataset.stride ?? 1);
    range.dispatchEvent(new Event('input', { bubbles: true }));
  }

  // asks the server; nothing where the visitor has gone on meanwhile. A sentence stands in the place of what cannot be shown.
  async function ask(kind, what) {
    const mine = ++asked, step = at;
    stage.classList.add('is-busy');
    said.textContent = '';
    let found;
    try { found = await server.tour_ask([visitor, kind, what]); } catch { found = { said: 'The server does not answer: is it still running?' }; }
    if (mine !== asked || step !== at || !dialog.isConnected || found.stopped) return null;
    stage.classList.remove('is-busy');
    if (!found.said) return found;
    if (found.calibrate) return await prepared(mine) ? ask(kind, what) : null;
    said.textContent = `${found.said} The tour goes on.`;
    stage.classList.add('is-empty');
    return null;
  }

  // shows in the step how far the calibration is; true when it is done, and nobody has gone on
  async function prepared(mine) {
    const words = 'First the whole network is measured once, so that what stays can make up for what goes. This step fills in by itself; leaving the tour does not stop it.';
    for (;;) {
      if (!measuring.stopping || measuring.run) { // whoever has stopped it begins it again
        stage.replaceChildren(make('div', 'tour-wait', make('p', '', words), measuringLine('Calibrating:', 'has-rail')));
        const state = await calibrate();
        if (mine !== asked || !dialog.isConnected) return false;
        if (state.done) return true;
        said.textContent = state.said ?? '';
      }
      await new Promise(pressed => stage.replaceChildren(make('div', 'tour-wait', make('p', '', 'Nothing is pruned here before the network is measured.'), make('div', 'tour-do', press('Calibrate now', pressed)))));
      if (mine !== asked || !dialog.isConnected) return false;
      measuring.stopping = false;
      said.textContent = '';
      after.focus(); // the button that had it is gone
    }
  }

  function range(label, min, max, value, moved, stride = 1) {
    const input = Object.assign(document.createElement('input'), { type: 'range', min, max, value });
    input.dataset.stride = stride; // of one press of an arrow key
    const row = make('label', 'tour-range', make('span', '', label), input, make('output'));
    const tell = () => { row.querySelector('output').textContent = moved(+input.value, input) ?? ''; };
    input.addEventListener('input', tell);
    tell();
    return row;
  }

  const figure = (words, inside, name = '') => make('figure', name, make('figcaption', '', words), make('div', 'tour-pictures', ...inside));
  const pair = (left, right) => make('div', 'tour-pair', left, right);
  const picked = () => cuts ?? facts.boundaries;

  async function withDense() {
    if (dense?.seed === seed) return dense;
    const found = await ask('film', [seed]);
    if (found) dense = { ...found, seed };
    if (found && facts.calibrates && !measuring.stopping) calibrate(); // in good time for the last steps
    facts.calibrates &&= !found;
    return found && dense;
  }

  function frame(i) {
    const { noisy, guess } = dense.frames[i];
    stage.querySelector('.of-noisy .tour-pictures').replaceChildren(...pictures(noisy, 'The noisy picture'));
    stage.querySelector('.of-guess .tour-pictures').replaceChildren(...pictures(guess, "The model's guess"));
    stage.querySelector('.tour-at').textContent = `step ${i + 1} of ${dense.frames.length}`;
  }

  function frames() {
    return [pair(figure('What it cleans', [], 'of-noisy'), figure('Its guess', [], 'of-guess')), make('p', 'tour-at')];
  }

  function play(i = 0) {
    clearTimeout(timer);
    if (!dialog.isConnected || facts.steps[at].kind !== 'film') return;
    const last = dense.frames.length - 1;
    frame(moving() ? i : last);
    if (moving() && i < last) timer = setTimeout(() => play(i + 1), FRAME_MS);
  }

  const steps = {
    async film() {
      todo.append(make('div', 'tour-do', press('Another noise', async () => { seed += 1; if (await withDense()) { stage.replaceChildren(...frames()); play(); } }), press('Play again', () => dense && play())));
      if (await withDense()) { stage.replaceChildren(...frames()); play(); }
    },

    async curve() {
      const curve = filled('div', 'tour-drawing', facts.curve);
      stage.replaceChildren(curve, ...frames());
      const here = curve.querySelector('.tour-here');
      todo.append(range('Step', 1, facts.timesteps.length, Math.ceil(facts.timesteps.length / 2), value => {
        here.hidden = false;
        here.style.left = `${100 * (1 - facts.timesteps[value - 1] / (facts.total - 1))}%`;
        if (dense?.seed === seed) frame(value - 1);
        return `${value}`;
      }));
      if (await withDense()) todo.querySelector('input').dispatchEvent(new Event('input'));
    },

    async head() {
      const gone = new Map(); // layer -> heads that are away
      let layer = 0;
      const row = make('div', 'tour-heads');
      const look = async () => {
        const away = [...gone.get(layer) ?? []];
        const found = await ask('head', [seed, layer, away]);
        if (found) beside(found, 'Whole network', away.length ? `Without ${away.length === 1 ? `head ${away[0] + 1}` : `${away.length} heads`}` : 'Nothing away yet', `${found.far}`);
      };
      const heads = () => {
        const away = gone.get(layer) ?? new Set(), { heads: count } = facts.layers[layer];
        const focused = [...row.children].indexOf(document.activeElement);
        row.replaceChildren(...Array.from({ length: count }, (_, k) => {
          const one = press(`${k + 1}`, () => {
            if (!away.delete(k) && away.size < count - 1) away.add(k);
            gone.set(layer, away);
            one.setAttribute('aria-pressed', away.has(k));
            look();
          });
          one.setAttribute('aria-pressed', away.has(k));
          one.setAttribute('aria-label', `Take head ${k + 1} away`);
          return one;
        }));
        if (focused >= 0) row.children[Math.min(focused, count - 1)].focus();
      };
      if (!facts.layers.length) { said.textContent = 'This model has no attention heads that could go. The tour goes on.'; return; }
      todo.append(range('Block', 1, facts.layers.length, 1, value => {
        layer = value - 1;
        heads();
        clearTimeout(timer);
        if (stage.querySelector('figure')) timer = setTimeout(look, SETTLE_MS);
        return facts.layers[layer].name.replace(/ heads$/, '');
      }), make('div', 'tour-do', make('span', '', 'Heads'), row));
      await look();
    },

    async stages() {
      const curve = filled('div', 'tour-drawing', facts.curve), strip = make('div', 'tour-strip');
      const { total, timesteps } = facts, stride = Math.max(1, Math.round(total / 50));
      // the sliders run as the picture does, from noise at the left to the finished picture
      const place = (which, from) => {
        const [low, high] = picked(), value = total - from;
        cuts = which ? [Math.min(low, value - 1), value] : [value, Math.max(high, value + 1)];
        draw();
        return told(value);
      };
      const told = t => `step ${timesteps.filter(at => at >= t).length}, t = ${t}`;
      const draw = () => {
        const [low, high] = picked(), widths = { late: low, middle: high - low, early: total - high };
        for (const band of curve.querySelectorAll('.tour-band')) band.style.flexGrow = widths[band.dataset.stage];
        timesteps.forEach((t, i) => { if (strip.children[i]) strip.children[i].dataset.stage = t < low ? 'late' : t < high ? 'middle' : 'early'; });
        for (const [k, input] of [...todo.querySelectorAll('input')].entries()) {
          input.value = total - [high, low][k];
          input.parentElement.querySelector('output').textContent = told([high, low][k]);
        }
      };
      stage.replaceChildren(curve, strip);
      todo.append(
        range('Early to middle', 1, total - 2, total - picked()[1], from => place(1, from), stride),
        range('Middle to late', 2, total - 1, total - picked()[0], from => place(0, from), stride),
      );
      if (await withDense()) { strip.replaceChildren(...dense.frames.map((one, i) => make('span', '', ...pictures(one.guess.slice(0, 1), `Step ${i + 1}`)))); draw(); }
    },

    async prune() {
      const button = press('Prune a third away', async () => {
        const found = await ask('prune', [seed, picked()]);
        if (found) { shown.prune = { ...found, seed, cut: String(picked()) }; pruned(); }
      });
      todo.append(make('div', 'tour-do', button));
      if (known()) pruned();
      else stage.replaceChildren(filled('div', 'tour-drawing', facts.curve));
    },

    async flip() {
      const found = known() ? shown.prune : await ask('prune', [seed, picked()]);
      if (!found) return;
      shown.prune = { ...found, seed, cut: String(picked()) };
      let front = 'whole';
      const one = figure('', [], 'tour-flip');
      const button = press('Flip', () => { front = front === 'whole' ? 'images' : 'whole'; draw(); });
      const draw = () => {
        one.querySelector('figcaption').textContent = front === 'whole' ? 'Whole network' : 'Pruned network';
        one.querySelector('.tour-pictures').replaceChildren(...pictures(found[front], front === 'whole' ? 'Whole' : 'Pruned'));
      };
      stage.replaceChildren(one, numbers(found));
      draw();
      todo.append(make('div', 'tour-do', button));
      button.focus();
    },

    async push() {
      let turn = 0;
      const look = async share => {
        const found = await ask('push', [seed, picked(), share]);
        if (found) beside(found, 'Whole network', `${Math.round(100 * share)} % removed`, found.far, found);
      };
      todo.append(range('Removed', 0, facts.shares.length - 1, 2, value => {
        clearTimeout(timer);
        if (turn++) timer = setTimeout(() => look(facts.shares[value]), SETTLE_MS);
        return `${Math.round(100 * facts.shares[value])} %`;
      }));
      await look(facts.shares[2]);
    },
  };

  const known = () => shown.prune?.seed === seed && shown.prune.cut === String(picked());

  function beside(found, left, right, words, all = null) {
    stage.classList.remove('is-empty');
    stage.replaceChildren(pair(figure(left, pictures(found.whole, left)), figure(right, pictures(found.images, right))), make('p', 'tour-at', words));
    if (all) stage.append(make('p', 'tour-fine', `${all.saved} less work, counted.`));
  }

  function numbers(found) {
    const list = make('dl', 'tour-numbers');
    for (const [name, value] of [['work, counted', `${found.saved} less`], ['distance', found.far]]) list.append(make('div', '', make('dt', '', name), make('dd', '', value)));
    return make('div', '', list, make('p', 'tour-fine', 'Whether less work is less time depends on the device and the batch: 3 Compare measures it.'));
  }

  function pruned() {
    const found = shown.prune, bars = make('ul', 'tour-bars');
    for (const { stage: name, steps: count, removed } of [...found.stages].reverse()) {
      const bar = make('i');
      const item = make('li', '', make('b', '', name), bar, make('span', '', `${removed} gone`), make('small', '', `${count} steps`));
      item.dataset.stage = name;
      item.style.setProperty('--share', removed.replace(/\s/g, ''));
      bars.append(item);
    }
    stage.classList.remove('is-empty');
    stage.replaceChildren(bars, pair(figure('Whole network', pictures(found.whole, 'Whole')), figure('Pruned network', pictures(found.images, 'Pruned'))), make('p', 'tour-fine', `${found.saved} of the work of these ${facts.timesteps.length} steps is gone. ${found.made}`));
  }

  function show() {
    clearTimeout(timer);
    asked += 1;
    const step = facts.steps[at];
    title.textContent = step.title;
    text.innerHTML = step.text;
    todo.replaceChildren(make('p', 'tour-call', step.todo));
    said.textContent = '';
    stage.className = `tour-stage of-${step.kind}`;
    stage.replaceChildren();
    where.textContent = `${at + 1} of ${facts.steps.length}`;
    before.disabled = at === 0;
    after.textContent = at === facts.steps.length - 1 ? 'Done' : 'Next';
    dialog.dataset.step = step.kind;
    const slides = ['curve', 'head', 'stages', 'push'].includes(step.kind);
    hint.textContent = `← → steps · ${slides ? '↑ ↓ move' : 'Enter presses'} · Esc leaves`;
    after.focus();
    steps[step.kind]();
  }

  let found;
  try { found = await server.tour_steps(null); } catch { found = { said: 'The server does not answer: is it still running?' }; }
  if (!dialog.isConnected) return;
  if (!found.steps) { said.textContent = found.said; return; }
  facts = found;
  show();
}
