// Makes tables sortable: a press on a heading sorts by its column, the next one turns the order round, the third restores it.
// Cells carry in data-order what they are sorted by. Without scripts the page is complete, only unsorted.
"use strict";

const NEXT = { null: "ascending", ascending: "descending", descending: null };

function makeSortable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 2) return;
  table.classList.add("sortable");
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => press(table, rows, heading));
    heading.append(button);
  }
}

function press(table, rows, heading) {
  const order = NEXT[heading.getAttribute("aria-sort")];
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  if (order) heading.setAttribute("aria-sort", order);
  table.tBodies[0].append(...(order ? sorted(rows, heading.cellIndex, order) : rows));
}

// Numbers as numbers, words as words; cells without a value last in both directions.
function sorted(rows, column, order) {
  const value = (row) => row.cells[column].dataset.order;
  const known = rows.filter((row) => value(row) !== undefined);
  const isNumeric = known.every((row) => value(row) !== "" && Number.isFinite(Number(value(row))));
  const compare = isNumeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const sign = order === "ascending" ? 1 : -1;
  known.sort((a, b) => sign * compare(value(a), value(b)));
  return [...known, ...rows.filter((row) => value(row) === undefined)];
}

document.querySelectorAll("table").forEach(makeSortable);
