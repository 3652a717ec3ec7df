/* Before anything is painted: the colours that the reader has chosen, if any. */
try {
  const chosen = localStorage.getItem("rlhf-theory-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* No storage: the system decides. */ }
