(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  /* Light and dark: the system decides until the reader does. */
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    const same = (wanted === "dark") === system.matches;
    if (same) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    try {
      if (same) localStorage.removeItem("rlhf-theory-theme");
      else localStorage.setItem("rlhf-theory-theme", wanted);
    } catch { /* Holds for this visit, then. */ }
    label();
  });
  system.addEventListener("change", label);
  label();
  button.hidden = false;

  /* Paper cannot be opened: everything is open while it is printed. */
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => { for (const box of opened) box.open = false; });

  /* Files that came compressed are handed out as they were. */
  if ("DecompressionStream" in window) {
    for (const link of all("a[data-media]")) {
      link.download = link.download.replace(/\.gz$|(?<=\.svg)z$/, "");
      link.textContent = link.textContent.replace(/\.gz|(?<=svg)z/, "");
      link.addEventListener("click", async (event) => {
        if (link.href.startsWith("blob:")) return;
        event.preventDefault();
        const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
        const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
        const content = await new Response(plain).arrayBuffer();
        link.href = URL.createObjectURL(new Blob([content], { type: link.dataset.media }));
        link.click();
      });
    }
  }

  /* Tables sort by a click on a head; what is missing comes last. */
  const order = (a, b) => a.localeCompare(b, "en", { numeric: true });
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const press = document.createElement("button");
      press.type = "button";
      press.append(...head.childNodes);
      head.append(press);
      press.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const number = head.classList.contains("number");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
        rows.sort(([a], [b]) => {
          if (a === "" || b === "") return (a === "") - (b === "");
          /* Two infinities are equal, though their difference is no number. */
          return (down ? -1 : 1) * (number ? a - b || 0 : order(a, b));
        });
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  const form = document.querySelector("form.filter");
  if (!form) return;

  /* Search and filter. */
  const search = form.querySelector("input[type=search]");
  const boxes = all("input[type=checkbox]", form);
  const count = form.querySelector(".count");
  const reset = form.querySelector("button[type=reset]");
  const plain = (text) => text.normalize("NFKC").toLowerCase().replace(/\s+/g, " ");

  /* What is said about an item, without the words inside its drawing and its long texts. */
  const words = (element) => {
    const text = [];
    const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT, (node) =>
      node.nodeType === Node.ELEMENT_NODE && node.matches("svg, .downloads")
        ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
    while (walk.nextNode()) {
      if (walk.currentNode.nodeType === Node.TEXT_NODE) text.push(walk.currentNode.data);
      else if (walk.currentNode.matches("td, th, p, dt, dd, li, summary")) text.push(" ");
    }
    return text.join("");
  };
  const items = all("[data-item]").map((element) => {
    const tags = JSON.parse(element.dataset.tags ?? "{}");
    const text = plain([words(element), element.dataset.words ?? "", ...Object.values(tags).flat()].join(" "));
    return { element, tags, text, kind: element.dataset.item };
  });
  const followers = all("[data-follows]");
  const groups = all("[data-group]").map((element) => {
    const note = document.createElement("p");
    note.className = "empty";
    note.textContent = "Nothing here matches the search and the filters.";
    note.hidden = true;
    element.append(note);
    return { element, note, items: items.filter((item) => element.contains(item.element)) };
  });

  const say = (active) => {
    const shown = new Map();
    for (const { element, kind } of items) {
      const [some, every] = shown.get(kind) ?? [0, 0];
      shown.set(kind, [some + !element.hidden, every + 1]);
    }
    count.textContent = [...shown]
      .map(([kind, [some, every]]) => `${active ? `${some} of ` : ""}${every} ${kind}${every === 1 ? "" : "s"}`)
      .join(", ");
  };
  const apply = () => {
    const wanted = plain(search.value).split(" ").filter(Boolean);
    const chosen = new Map();
    for (const box of boxes) {
      if (box.checked) chosen.set(box.name, [...(chosen.get(box.name) ?? []), box.value]);
    }
    const active = wanted.length + chosen.size > 0;
    for (const { element, tags, text } of items) {
      /* What has no tag of a kind is about all of them. */
      const fits = ([name, values]) => !(name in tags) || tags[name].some((tag) => values.includes(tag));
      element.hidden = !(wanted.every((word) => text.includes(word)) && [...chosen].every(fits));
    }
    for (const follower of followers) {
      follower.hidden = document.getElementById(follower.dataset.follows).hidden;
    }
    for (const group of groups) {
      const none = group.items.length > 0 && group.items.every((item) => item.element.hidden);
      group.note.hidden = !none;
      group.element.classList.toggle("none", none);
    }
    reset.hidden = !active;
    say(active);
  };

  /* The address keeps the state, so that it can be sent and comes back with "back". */
  const PREFIX = "#filter?";
  const store = () => {
    const state = new URLSearchParams();
    if (search.value.trim()) state.append("q", search.value.trim());
    for (const box of boxes) if (box.checked) state.append(box.name, box.value);
    const address = state.size ? PREFIX + state : location.pathname + location.search;
    if (state.size || location.hash.startsWith(PREFIX)) history.replaceState(null, "", address);
  };
  const load = () => {
    if (location.hash.startsWith(PREFIX)) {
      const state = new URLSearchParams(location.hash.slice(PREFIX.length));
      search.value = state.get("q") ?? "";
      for (const box of boxes) box.checked = state.getAll(box.name).includes(box.value);
      apply();
      return;
    }
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.closest("[hidden]")) {
      /* A link to something that is filtered out shows it. */
      clear();
      target.scrollIntoView();
    }
  };
  const clear = () => {
    search.value = "";
    for (const box of boxes) box.checked = false;
    apply();
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { apply(); store(); });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    clear();
    store();
    search.focus();
  });
  addEventListener("hashchange", load);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === search) {
      clear();
      store();
    } else if (event.key === "/" && !event.target.closest?.("input, textarea, select")) {
      event.preventDefault();
      search.focus();
    }
  });
  form.hidden = false;
  apply();
  load();
})();
