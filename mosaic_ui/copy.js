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

// Save what a data address holds as a file.
async function saveFile(address, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await (await fetch(address)).blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
