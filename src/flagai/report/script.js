"use strict";
(() => {
  document.documentElement.classList.add("js");

  const value = (cell) => {
    const text = cell.dataset.value ?? cell.textContent;
    const number = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(number) ? text : number;
  };
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  for (const table of document.querySelectorAll("table[data-sort]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const sort = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        const labels = column === 0;
        const key = (row) => (labels ? row.cells[0].textContent : value(row.cells[column]));
        rows.sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
        table.tBodies[0].append(...rows);
      };
      head.tabIndex = 0;
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
    });
  }

  for (const picture of document.querySelectorAll("svg[data-series]")) {
    const series = JSON.parse(picture.dataset.series);
    const output = picture.nextElementSibling;
    const cursor = picture.querySelector(".cursor");
    const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const show = (event) => {
      const box = picture.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width;
      const found = series.map(([name, points]) => [name, nearest(points, x)]);
      const [pixel, step] = found.map(([, point]) => point).reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      cursor.setAttribute("x1", pixel);
      cursor.setAttribute("x2", pixel);
      cursor.style.visibility = "visible";
      const here = found.filter(([, point]) => Math.abs(point[0] - pixel) < 12);
      output.textContent = `${step}: ` + here.map(([name, point]) => `${name} ${point[2]}`).join(" · ");
    };
    const hide = () => {
      cursor.style.visibility = "hidden";
      output.textContent = "\u00a0";
    };
    picture.addEventListener("pointermove", show);
    picture.addEventListener("pointerdown", show);
    picture.addEventListener("pointerleave", hide);
  }
})();
