// Sort the rows of a table by its headings: what the tables of runs and of layers share. Written before a table's own script.

// What a cell is sorted by: a number, a text, or null where it is not known.
function sortKey(cell) {
  const { n, v } = cell.dataset;
  return n === undefined ? v ?? null : Number(n);
}

// Headings of a table -> `by(rows)`, which sorts rows of {keys} in place; `changed` is called when a heading is pressed.
function sorter(heads, changed) {
  let sorted = null; // {column, way}
  heads.forEach(head => head.addEventListener('click', () => {
    const column = Number(head.dataset.column), first = Number(head.dataset.first);
    sorted = { column, way: sorted && sorted.column === column ? -sorted.way : first };
    heads.forEach((other, i) => other.parentElement.setAttribute('aria-sort',
      i !== column ? 'none' : sorted.way > 0 ? 'ascending' : 'descending'));
    changed();
  }));
  return rows => { // unknown values stay last, whichever way; equal ones keep their order
    if (!sorted) return;
    const { column, way } = sorted;
    rows.sort((a, b) => {
      const x = a.keys[column], y = b.keys[column];
      if (x === null || y === null) return (x === null) - (y === null);
      return x < y ? -way : x > y ? way : 0;
    });
  };
}
