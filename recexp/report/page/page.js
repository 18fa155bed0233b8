"use strict";
// Sorting, the legend's buttons, values at the pointer, and open folds on paper. The page is whole without it.
document.documentElement.classList.add("scripted");

for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sort(button.closest("th"), button.dataset.first));
}

function sort(head, first) {
  const other = { ascending: "descending", descending: "ascending" };
  const order = head.hasAttribute("aria-sort") ? other[head.getAttribute("aria-sort")] : first;
  for (const each of head.parentNode.children) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const body = head.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => [key(row.cells[head.cellIndex]), row]);
  rows.sort(([a], [b]) => compare(a, b, order === "ascending" ? 1 : -1));
  body.append(...rows.map(([, row]) => row));
}

function key(cell) {
  if (!("value" in cell.dataset)) return cell.textContent;
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last, in either order
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
}

const boxes = [...document.querySelectorAll(".boxes input")];
for (const button of document.querySelectorAll(".choice button")) {
  button.addEventListener("click", () => boxes.forEach((box, place) => { box.checked = place < Number(button.dataset.show); }));
}

const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll(".curves > svg")) {
  const first = Number(chart.dataset.first), step = Number(chart.dataset.step);
  const curves = [...chart.querySelectorAll("[data-values]")].map((curve) => ({
    curve, place: Number(curve.dataset.row), values: curve.dataset.values.split(","),
  }));
  const last = Math.max(...curves.map((each) => each.values.length));
  let epoch = 0;
  const show = (wanted) => {
    epoch = Math.min(last, Math.max(1, wanted));
    tell(chart, epoch, first + (epoch - 1) * step, curves);
  };
  const hide = () => {
    tip.hidden = true;
    chart.querySelector(".cross").setAttribute("visibility", "hidden");
  };
  chart.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    show(Math.round((point.x - first) / step) + 1);
  });
  chart.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: epoch - 1, ArrowRight: epoch + 1, Home: 1, End: last };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
}

function tell(chart, epoch, x, curves) {
  const cross = chart.querySelector(".cross");
  cross.setAttribute("transform", `translate(${x})`);
  cross.setAttribute("visibility", "visible");
  const there = curves.filter(({ curve, values }) => values[epoch - 1] && getComputedStyle(curve).display !== "none");
  there.sort((a, b) => b.values[epoch - 1] - a.values[epoch - 1]);
  tip.replaceChildren(`epoch ${epoch}`, ...there.slice(0, 12).map(({ place, values }) => entry(place, values[epoch - 1])));
  tip.hidden = false;
  const at = cross.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const right = at.right + 12 + size.width < innerWidth;
  tip.style.left = `${right ? at.right + 12 : Math.max(4, at.left - 12 - size.width)}px`;
  tip.style.top = `${Math.max(4, Math.min(at.top, innerHeight - size.height - 4))}px`;
}

function entry(place, value) {
  const line = document.createElement("div"), name = document.createElement("span"), figure = document.createElement("b");
  const label = boxes[place].closest("label");
  name.textContent = label.querySelector("span").textContent;
  figure.textContent = value;
  line.append(label.querySelector("svg").cloneNode(true), name, figure);
  return line;
}

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
