"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = matchMedia("(max-width: 40rem)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Axes, grid and text follow the page's own colours; a verdict's colour is the same in light and dark.
  function themed(figure) {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const layout = structuredClone({ ...figure.layout, ...(narrow.matches ? figure.narrow : {}) });
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    if (!layout.xaxis) layout.xaxis = {};
    if (!layout.yaxis) layout.yaxis = {};
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) layout[name] = { ...axis, ...layout[name] };
    }
    return {
      height: narrow.matches ? 340 : 440,
      legend: { orientation: "h", x: 0, y: 1.0, yref: "container", yanchor: "top", xanchor: "left" },
      hoverlabel: { align: "left" },
      ...layout,
      margin: { l: 55, r: 18, t: 45, b: 50, ...layout.margin },
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css.fontFamily, size: 13, color: colour("--text") },
    };
  }

  function coloured(trace) {
    if (trace.meta !== "text colour") return trace;
    const color = getComputedStyle(document.documentElement).color;
    return { ...trace, line: trace.line && { ...trace.line, color }, marker: { ...trace.marker, color } };
  }

  const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  function draw() {
    for (const [id, figure] of Object.entries(figures)) {
      Plotly.react(document.getElementById(`figure-${id}`), figure.data.map(coloured), themed(figure), config);
    }
  }
  draw();
  narrow.addEventListener("change", draw);
  dark.addEventListener("change", draw);

  // Numbers sort as numbers, text as text, and empty cells stay last either way.
  function compare(a, b, numeric) {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? Infinity : -Infinity;
    return numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
  }

  function sortBy(table, index) {
    const heads = [...table.tHead.rows[0].cells];
    const upward = heads[index].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", upward ? "ascending" : "descending");
    const key = (row) => row.cells[index].dataset.key ?? row.cells[index].textContent;
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
    rows.sort((a, b) => {
      const order = compare(key(a), key(b), numeric);
      return upward || Math.abs(order) === Infinity ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      head.querySelector("button").addEventListener("click", () => sortBy(table, index));
    });
  }
})();
