"use strict";

// What a cell sorts by: its number where it has one, else its text.
const keyOf = (row, column) => {
  const cell = row.cells[column];
  return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent;
};

const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

const sortBy = (table, heading) => {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const sorted = [...body.rows].sort((a, b) => compare(keyOf(a, heading.cellIndex), keyOf(b, heading.cellIndex)));
  body.append(...(down ? sorted.reverse() : sorted));
};

const filter = (block) => {
  const words = block.querySelector('input[type="search"]').value.toLowerCase().split(/\s+/);
  const boxes = [...block.querySelectorAll('input[type="checkbox"]')];
  const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  const rows = [...block.querySelector("tbody").rows];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = hidden.has(row.dataset.kind) || !words.every((word) => text.includes(word));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  block.querySelector("output").textContent = `${shown} of ${rows.length} shown`;
};

for (const block of document.querySelectorAll("div.table")) {
  const table = block.querySelector("table");
  for (const heading of table.tHead.rows[0].cells) heading.addEventListener("click", () => sortBy(table, heading));
  block.querySelector(".controls").addEventListener("input", () => filter(block));
  filter(block);
}
