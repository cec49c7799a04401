// Keys press what names them (data-key="a"), and data-focus="e" puts the cursor there; the page works without this too.
"use strict";
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey) return;
  const here = document.activeElement;
  const typing = here.tagName === "TEXTAREA" || (here.tagName === "INPUT" && here.type === "text");
  const press = (key) => {
    const found = [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key);
    if (found) { event.preventDefault(); found.click(); }
  };
  if (event.ctrlKey) {
    if (event.key === "Enter" && typing) press("Control Enter");
    return;
  }
  // Enter in the note would press the first button.
  if (event.key === "Enter" && here.name === "note") return event.preventDefault();
  if (event.key === "Escape" && typing) return here.blur();
  if (typing) return;
  const field = document.querySelector("[data-focus]");
  if (field && field.dataset.focus === event.key) { field.focus(); return event.preventDefault(); }
  press(event.key);
});
