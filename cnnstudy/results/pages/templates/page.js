"use strict";
(() => {
  // theme
  const theme = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme || "system") + 1) % themes.length];
    if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
    theme.textContent = "theme: " + next;
  });

  // highlight the link of the section in view
  const links = new Map([...document.querySelectorAll("nav .links a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-12% 0px -80% 0px" });
  for (const id of links.keys()) { const section = document.getElementById(id); if (section) watch.observe(section); }

  // unfold what an address or a link points to
  function unfold(element) {
    for (let one = element; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  }
  function follow() {
    const section = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = section && section.querySelector(":scope > details");
    if (details) { details.open = true; section.scrollIntoView(); }
  }
  addEventListener("hashchange", follow);
  for (const link of links.values()) link.addEventListener("click", () => setTimeout(follow));
  follow();

  // the table of all trials
  const table = document.getElementById("all-trials");
  const rows = table ? [...table.tBodies[0].rows] : [];
  const byTrial = new Map(rows.map((row) => [row.dataset.trial, row]));
  const form = document.querySelector("form.filters");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function filter() {
    const filters = new FormData(form);
    const words = (filters.get("text") || "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = words.every((word) => texts.get(row).includes(word)) &&
        ["network", "transfer", "verdict", "state"].every((key) => !filters.get(key) || row.dataset[key] === filters.get(key)) &&
        (!filters.get("front") || "front" in row.dataset);
      row.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = shown + " of " + rows.length + " trials";
  }

  function sort(column, heading) {
    const downwards = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", downwards ? "descending" : "ascending");
    const value = (row) => { const cell = row.cells[column]; return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent; };
    const keyed = rows.map((row, place) => ({ row, place, value: value(row) }));
    keyed.sort((a, b) => {
      if ((a.value === "") !== (b.value === "")) return a.value === "" ? 1 : -1;
      const order = typeof a.value === "number" && typeof b.value === "number" ? a.value - b.value : String(a.value).localeCompare(String(b.value), "en", { numeric: true });
      return (downwards ? -order : order) || a.place - b.place;
    });
    table.tBodies[0].append(...keyed.map((one) => one.row));
  }

  if (form && table) {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.reset();
    filter();
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => sort(column, heading));
    });
  }

  // points of figures: a tooltip, and a click that jumps to the row
  const tip = document.getElementById("tip");
  const cellUnder = (row, name) => {
    const place = [...table.tHead.rows[0].cells].findIndex((heading) => heading.textContent === name);
    return place < 0 ? "" : row.cells[place].textContent;
  };
  function show(point, x, y) {
    const row = byTrial.get(point.dataset.trial);
    if (!row) return;
    const name = document.createElement("b");
    name.textContent = row.dataset.trial;
    const measured = "train " + cellUnder(row, "train %") + " %, validation " + cellUnder(row, "val %") + " %, gap " + cellUnder(row, "gap") + ", " + cellUnder(row, "seconds") + " s";
    tip.replaceChildren(name, row.dataset.words, document.createElement("br"), measured);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
    mark(row);
  }
  function mark(row) {
    for (const other of table.querySelectorAll("tr.found")) other.classList.remove("found");
    row.classList.add("found");
  }
  if (table) {
    for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
    document.addEventListener("pointerover", (event) => {
      const point = event.target.closest("svg [data-trial]");
      if (point) show(point, event.clientX, event.clientY); else tip.hidden = true;
    });
    document.addEventListener("click", (event) => {
      const point = event.target.closest("svg [data-trial]");
      const row = point && byTrial.get(point.dataset.trial);
      if (!row) return;
      if (row.hidden) { form.reset(); filter(); }
      mark(row);
      unfold(row);
      row.scrollIntoView({ block: "center" });
    });
    addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  }

  // open all details for printing
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open]):not(.dump)")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
})();
