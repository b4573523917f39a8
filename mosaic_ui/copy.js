// Put a text into the clipboard and into a box under the button, where it can be read and marked by hand.
async function copyText(text, box) {
  box.textContent = text;
  box.hidden = false;
  try { await navigator.clipboard.writeText(text); } catch { // neither https nor this machine
    const kept = document.body.appendChild(Object.assign(document.createElement('textarea'), { value: text }));
    kept.select();
    document.execCommand('copy');
    kept.remove();
  }
}
