"""Hold the style and the script of the page of a sweep."""

from __future__ import annotations

# head row and first column are sticky, so that labels stay in sight while a table scrolls
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1rem; color: #202020; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid #c8c8c8; width: fit-content;
  max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; }
th, td { padding: .35rem .5rem; text-align: center; border: 0 solid #e0e0e0;
  border-width: 0 1px 1px 0; white-space: nowrap; }
th { background: #f4f4f4; font-weight: 600; }
thead th { position: sticky; top: 0; z-index: 2; }
tr > th:first-child { position: sticky; left: 0; z-index: 1; }
thead th.corner { left: 0; z-index: 3; }
td img, figure img { display: block; image-rendering: pixelated; margin: 0 auto .2rem; }
td.failed, td.impossible, td.waiting, td.running { color: #606060; font-style: italic;
  background: repeating-linear-gradient(45deg, #fff 0 6px, #f0f0f0 6px 12px); }
figure { display: inline-block; margin: 0 1rem .6rem 0; } figcaption { font-size: .85rem; }
.bar { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle;
  background: linear-gradient(90deg, hsl(215 70% 96%), hsl(215 70% 30%)); }
"""

# one hue from light to dark: the order survives greyscale print and colour blindness; at a share of
# 0.68 black and white both have a contrast of 4.5
SCRIPT = """
const cells = JSON.parse(document.getElementById('cells').textContent);
const menu = document.getElementById('metric');
const legend = document.getElementById('legend');
function show() {
  const values = cells[menu.value] || [];
  const numbers = values.filter(v => v !== null).map(v => v[0]);
  const low = Math.min(...numbers), high = Math.max(...numbers);
  for (const td of document.querySelectorAll('td[data-cell]')) {
    const value = values[Number(td.dataset.cell)];
    td.querySelector('span').textContent = value ? value[1] : 'not known';
    td.style.background = td.style.color = '';
    if (value && td.closest('.heat')) {
      const share = high > low ? (value[0] - low) / (high - low) : 0.5;
      td.style.background = `hsl(215 70% ${96 - 66 * share}%)`;
      td.style.color = share > 0.68 ? '#fff' : '#000';
    }
  }
  legend.textContent = '';
  if (numbers.length) {
    const text = v => values.find(x => x !== null && x[0] === v)[1];
    const bar = document.createElement('span');
    bar.className = 'bar';
    legend.append(text(low) + ' ', bar, ' ' + text(high));
  }
}
menu.addEventListener('change', show);
show();
"""
