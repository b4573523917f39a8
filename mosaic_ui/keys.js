// Arrow keys for what Gradio gives none: its radios have a name each, so the browser does not see them as one group, and its tabs
// answer to Tab and Enter only. One shared name makes a group of radios one stop with arrow keys, as the browser itself does it.
() => {
  let groups = 0;
  const group = fieldset => {
    const radios = [...fieldset.querySelectorAll('input[type=radio]')];
    if (radios.length < 2 || radios.every(radio => radio.name === radios[0].name)) return;
    groups += 1;
    for (const radio of radios) radio.name = `group-${groups}`;
  };
  const look = () => document.querySelectorAll('fieldset').forEach(group);
  look();
  const withRadios = node => node.nodeType === 1 && (node.matches('input[type=radio]') || node.querySelector('input[type=radio]'));
  new MutationObserver(changes => {
    if (changes.some(change => [...change.addedNodes].some(withRadios))) look();
  }).observe(document.body, { childList: true, subtree: true });

  document.addEventListener('keydown', event => {
    const tab = event.target.closest && event.target.closest('[role=tab]');
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!tab || !(by || event.key === 'Home' || event.key === 'End')) return;
    const tabs = [...tab.closest('[role=tablist]').querySelectorAll('[role=tab]:not([disabled])')];
    const at = by ? (tabs.indexOf(tab) + by + tabs.length) % tabs.length : event.key === 'Home' ? 0 : tabs.length - 1;
    event.preventDefault();
    tabs[at].click();
    tabs[at].focus();
  });
}
