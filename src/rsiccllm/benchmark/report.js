// Sorting tables by their headings, and filtering the samples. The page is whole without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const best = head.dataset.down === "1" || column === 0 ? "ascending" : "descending";
      const other = best === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === best ? other : best;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.v;
      const rows = [...table.tBodies[0].rows].sort((one, two) => {
        const [a, b] = [value(one), value(two)];
        if (a === "" || b === "") return (a === "") - (b === ""); // what is absent stays at the end
        return sign * (column === 0 ? a.localeCompare(b) : Number(a) - Number(b));
      });
      table.tBodies[0].append(...rows);
    });
  });
}

for (const browser of document.querySelectorAll(".browser")) {
  const cards = [...browser.querySelectorAll(".sample")];
  const select = (name) => browser.querySelector(`select[name="${name}"]`);
  const count = browser.querySelector("output");
  const filter = () => {
    const [model, error, change] = ["model", "error", "change"].map((name) => select(name).value);
    let shown = 0;
    for (const card of cards) {
      const found = card.dataset.found.split("\n").map((line) => {
        const cut = line.lastIndexOf("|");
        return [line.slice(0, cut), line.slice(cut + 1)];
      });
      const fits = found.some(([who, what]) => (!model || who === model) && (!error || what === error));
      card.hidden = !fits || (change !== "" && card.dataset.change !== change);
      for (const answer of card.querySelectorAll(".answer")) {
        answer.hidden = model !== "" && answer.dataset.model !== model;
      }
      shown += !card.hidden;
    }
    count.textContent = `${shown} of ${Number(count.dataset.of).toLocaleString("en")} pairs`;
  };
  browser.querySelectorAll("select").forEach((each) => each.addEventListener("change", filter));
}
