// The table per layer: rows come as HTML in props.value and are sorted here; sorter and sortKey are in sorted_table.js.
const body = element.querySelector('tbody');
let rows = []; // {row, keys}
const sort = sorter([...element.querySelectorAll('th button')], lay);

function lay() {
  sort(rows);
  body.append(...rows.map(one => one.row));
}

function draw() {
  body.innerHTML = props.value || '';
  rows = [...body.rows].map(row => ({ row, keys: [...row.cells].map(sortKey) }));
  lay();
}

draw();
watch('value', draw);
