// Keys press the buttons that are there; nothing happens without a button, so the page works without this file too.
"use strict";
const press = (name) => {
  const button = document.querySelector(`[data-key="${name}"]`);
  if (button) button.click();
};
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey) return;
  const typing = ["TEXTAREA", "INPUT"].includes(document.activeElement.tagName);
  if (event.ctrlKey) {
    if (event.key === "Enter" && typing) press("save");
    return;
  }
  // Enter in the note would press the first button.
  if (event.key === "Enter" && document.activeElement.name === "note") return event.preventDefault();
  if (event.key === "Escape" && typing) return document.activeElement.blur();
  if (typing) return;
  if (event.key === "e") {
    const field = document.querySelector("textarea");
    if (field) { field.focus(); event.preventDefault(); }
    return;
  }
  const names = { a: "accept", r: "reject", ArrowLeft: "back", ArrowRight: "on" };
  if (event.key in names) { event.preventDefault(); press(names[event.key]); }
});
