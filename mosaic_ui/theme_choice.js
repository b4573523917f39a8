// Light, dark, or as the system: the choice is kept in this browser and stands before the page is drawn. Gradio itself follows the
// system, or `__theme` in the address; a choice goes before both. The class `dark` of the body is all that page and charts look at. Before
// Gradio's script runs there is only the body's own colour, which looks at `data-theme` (first_paint.py writes both into the page's head).
(() => {
  if (window.mosaicTheme) return;
  const KEY = 'mosaic-theme', system = matchMedia('(prefers-color-scheme: dark)');
  const asked = new URLSearchParams(location.search).get('__theme');
  const read = () => { try { return localStorage.getItem(KEY); } catch { return null; } }; // a private window keeps none
  const known = choice => ['light', 'dark'].includes(choice);
  let choice = known(read()) ? read() : 'system';
  function apply() {
    const wanted = known(choice) ? choice : known(asked) ? asked : system.matches ? 'dark' : 'light';
    document.documentElement.dataset.theme = wanted;
    document.body?.classList.toggle('dark', wanted === 'dark');
  }
  function follow() { // Gradio, which knows of no choice, sets the class when it starts and when the system's colour changes
    if (!document.body) return false;
    new MutationObserver(apply).observe(document.body, { attributeFilter: ['class'] });
    apply();
    return true;
  }
  window.mosaicTheme = {
    get choice() { return choice; },
    choose(value) {
      choice = known(value) ? value : 'system';
      try { if (known(choice)) localStorage.setItem(KEY, choice); else localStorage.removeItem(KEY); } catch { /* not kept */ }
      apply();
    },
  };
  system.addEventListener('change', apply); // after Gradio's own, which knows of no choice
  addEventListener('storage', event => { // chosen in another tab of this browser
    if (event.key !== KEY) return;
    choice = known(event.newValue) ? event.newValue : 'system';
    apply();
    dispatchEvent(new Event('mosaic-theme'));
  });
  apply();
  if (!follow()) {
    const until = new MutationObserver(() => { if (follow()) until.disconnect(); });
    until.observe(document.documentElement, { childList: true });
  }
})();
