// 1 to 5 rate in the row that has the cursor and go on to the next one; Backspace goes back. Enter saves, as in any form.
{
  const rows = [...document.querySelectorAll("fieldset.rating")];
  const go = (row) => (row.querySelector(":checked") || row.querySelector("input")).focus();
  go(rows.find((row) => !row.querySelector(":checked")) || rows[0]);
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    const here = Math.max(0, rows.findIndex((row) => row.contains(document.activeElement)));
    if ("12345".includes(event.key)) {
      rows[here].querySelector(`input[value="${event.key}"]`).click();
      go(rows[Math.min(here + 1, rows.length - 1)]);
      event.preventDefault();
    } else if (event.key === "Backspace") {
      go(rows[Math.max(here - 1, 0)]);
      event.preventDefault();
    }
  });
}
