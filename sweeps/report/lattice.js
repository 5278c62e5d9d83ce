"use strict";
(() => {
  // One map at a time: the lattice of the trajectory that is chosen. Its numbers are made in lattice.py.
  const maps = JSON.parse(document.getElementById("lattices").textContent);
  const choice = document.getElementById("lattice-choice");
  const place = document.getElementById("lattice-map");
  const detail = document.getElementById("lattice-cell");

  function element(tag, text = "", attributes = {}) {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function short(loss) {
    if (loss === null) return "–";
    const size = Math.abs(loss);
    if (size > 0 && (size < 1e-3 || size >= 1e4)) return loss.toExponential(1);
    return size >= 999.5 ? loss.toFixed(0) : loss.toPrecision(3);
  }

  // Four digits, as everywhere else in the report.
  const long = (loss) => (loss !== 0 && Math.abs(loss) < 1e-3 ? loss.toExponential(3) : String(Number(loss.toPrecision(4))));

  function described(map, cell) {
    const [heads, loss, accuracy, trial] = cell;
    const readout = map.names.map((name, i) => (heads[i] === "" ? "" : `${name} ${heads[i]}`)).filter(Boolean).join(", ");
    const score = loss === null ? "eval loss not a finite number" : `eval loss ${long(loss)}`;
    const parts = [readout || "no readout parameter", score];
    if (accuracy !== null) parts.push(`accuracy ${(100 * accuracy).toFixed(2)}%`);
    if (cell === map.cells[0] && loss !== null) parts.push("the lowest loss here");
    parts.push(trial === null ? "no trial" : `trial ${trial}`);
    return parts.join("; ");
  }

  // The ramp's colours come from the style sheet, for light or dark; text is black or white, whichever is clearer.
  function ramp() {
    const css = getComputedStyle(document.documentElement);
    return [0, 1, 2].map((i) => {
      const hex = css.getPropertyValue(`--ramp-${i}`).trim();
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    });
  }

  function coloured(cell, shade, stops) {
    if (shade === null) return cell.classList.add("unknown");
    const [from, to] = shade <= 50 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    const way = (shade <= 50 ? shade : shade - 50) / 50;
    const rgb = from.map((low, i) => Math.round(low + way * (to[i] - low)));
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    cell.style.background = `rgb(${rgb.join(", ")})`;
    cell.style.color = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  function drawnCell(map, cell, stops) {
    if (!cell) return element("td");
    const made = element("td", short(cell[1]), { title: `${described(map, cell)}\n${map.about}` });
    coloured(made, cell[4], stops);
    if (cell === map.cells[0] && cell[1] !== null) made.classList.add("best");
    if (cell[3] !== null) made.classList.add("trial");
    made.addEventListener("click", () => { detail.textContent = described(map, cell); });
    return made;
  }

  function heatMap(map, stops) {
    const at = new Map(map.cells.map((cell) => [JSON.stringify(cell[0]), cell]));
    const table = element("table", "", { class: "map" });
    const [top, second] = [table.createTHead().insertRow(), table.tHead.insertRow()];
    const across = map.names[map.names.length - 1];
    const rows = map.names.length === 2 ? map.rows : [null];
    if (map.names.length === 2) top.append(element("td"));
    top.append(element("th", across, { scope: "colgroup", colspan: map.columns.length }));
    if (map.names.length === 2) second.append(element("th", map.names[0], { scope: "col", class: "corner" }));
    second.append(...map.columns.map((text) => element("th", text, { scope: "col" })));
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      if (row !== null) line.append(element("th", row, { scope: "row" }));
      for (const column of map.columns) {
        line.append(drawnCell(map, at.get(JSON.stringify(row === null ? [column] : [row, column])), stops));
      }
    }
    return table;
  }

  function list(map) {
    const table = element("table");
    const top = table.createTHead().insertRow();
    top.append(...[...map.names, "eval loss", "accuracy", "trial"].map((name) => element("th", name, { scope: "col" })));
    const body = table.createTBody();
    for (const cell of map.cells) {
      const [heads, loss, accuracy, trial] = cell;
      const line = body.insertRow();
      line.title = `${described(map, cell)}\n${map.about}`;
      const percent = accuracy === null ? "" : `${(100 * accuracy).toFixed(2)}%`;
      const texts = [...heads, loss === null ? "–" : long(loss), percent, trial ?? ""];
      line.append(...texts.map((text) => element("td", text)));
    }
    return table;
  }

  function draw() {
    const map = maps[Number(choice.value)];
    const mapped = map.columns.length > 0;
    place.replaceChildren(mapped ? heatMap(map, ramp()) : list(map));
    place.classList.toggle("tall", !mapped);
    document.getElementById("lattice-about").textContent = map.about;
    document.getElementById("lattice-step").textContent = map.step;
    document.getElementById("lattice-scale").hidden = !mapped || map.low === null;
    document.getElementById("lattice-marks").hidden = !mapped;
    document.getElementById("lattice-low").textContent = map.low === null ? "" : short(map.low);
    document.getElementById("lattice-high").textContent = map.high === null ? "" : short(map.high) + (map.log ? " (log)" : "");
    detail.textContent = described(map, map.cells[0]);
  }
  draw();
  choice.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
