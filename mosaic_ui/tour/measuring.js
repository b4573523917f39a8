// The calibration that the tour begins by itself. It is followed to its end, also when the tour is left: then the line beside the
// button says how far it is. `line` is that line, `measured` tells the page.
const POLL_MS = 700;
const measuring = { run: null, state: null, stopping: false };

// begins it, or follows the one that goes on; returns its last state
function calibrate() {
  measuring.run ??= followed().finally(() => { measuring.run = null; tellMeasuring(); });
  return measuring.run;
}

async function followed() {
  try {
    measuring.stopping = false;
    let state = await server.tour_ask([visitor, 'calibrate', []]);
    const began = state.going;
    while (state.going) {
      measuring.state = state;
      tellMeasuring();
      await new Promise(done => setTimeout(done, POLL_MS));
      state = await server.tour_ask([visitor, 'calibrating', []]);
    }
    if (began && state.done) measured();
    return state;
  } catch { return { said: 'The server does not answer: is it still running?' }; }
  finally { measuring.state = null; }
}

function stopCalibrating() {
  measuring.stopping = true;
  tellMeasuring();
  server.tour_ask([visitor, 'stop', []]).catch(() => {});
}

// a line that is kept up to date for as long as it stands in the page: words, how far, Stop
function measuringLine(words, name = '') {
  const one = make('span', `tour-measuring ${name}`, make('span', 'tour-far'), make('span', 'tour-left'), ' ', press('Stop', stopCalibrating));
  one.dataset.words = words;
  tellMeasuring(one);
  return one;
}

function tellMeasuring(...more) {
  const { state, stopping } = measuring, left = state?.text ? `, ${state.text}` : '';
  for (const one of [...document.querySelectorAll('.tour-measuring'), ...more]) {
    one.hidden = !state;
    if (!state) continue;
    one.querySelector('.tour-far').textContent = stopping ? 'Stopping …' : `${one.dataset.words} ${Math.round(100 * state.share)} %`;
    one.querySelector('.tour-left').textContent = stopping || one.matches('.is-short') ? '' : left;
    one.querySelector('button').disabled = stopping;
    one.style.setProperty('--share', `${100 * state.share}%`);
  }
}

line.replaceChildren(measuringLine('Calibrating goes on:', 'is-short'));
line.hidden = false;
