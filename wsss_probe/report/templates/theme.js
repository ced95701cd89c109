"use strict";
document.documentElement.classList.add("js");
try {
  const chosen = localStorage.getItem("wsss-probe-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser may refuse storage to local files; then the system's theme holds.
}
