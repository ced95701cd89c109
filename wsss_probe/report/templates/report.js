"use strict";
(() => {
  const root = document.documentElement;
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // -- theme ----------------------------------------------------------------------------------
  const isDark = () => (root.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark";

  // Custom properties are not resolved by getComputedStyle; a colour that uses one is.
  function color(name) {
    root.style.setProperty("outline-color", `var(--${name})`);
    const resolved = getComputedStyle(root).outlineColor;
    root.style.removeProperty("outline-color");
    return resolved;
  }

  function plotTemplate() {
    const ink = color("ink"), quiet = color("quiet"), line = color("line"), paper = color("raised");
    const family = getComputedStyle(document.body).fontFamily;
    const axis = {
      automargin: true, ticklabelstandoff: 5, gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line,
      tickfont: { color: quiet, size: 12.5 }, title: { font: { color: quiet, size: 13 }, standoff: 12 },
    };
    return {
      layout: {
        font: { family, size: 13, color: ink },
        xaxis: axis, yaxis: axis,
        legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { color: quiet } },
        hoverlabel: { bgcolor: paper, bordercolor: line, font: { family, color: ink, size: 13 }, align: "left" },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
        annotationdefaults: { font: { color: quiet, size: 12 } },
        shapedefaults: { line: { color: quiet } },
        coloraxis: { colorbar: { outlinewidth: 0, tickfont: { color: quiet } } },
      },
      data: { bar: [{ error_x: { color: ink, thickness: 1.5 }, error_y: { color: ink, thickness: 1.5 } }] },
    };
  }

  // -- plots ----------------------------------------------------------------------------------
  // Buttons are named one by one: plotly's own choice includes one that sends the figure's data to
  // a server in a new window, which no Content-Security-Policy prevents.
  const CONFIG = {
    displaylogo: false, responsive: true, scrollZoom: false,
    showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "figure" },
  };
  const holders = all(".plot");
  let before = null; // what the page was like before printing, while it prints

  function draw(holder, width) {
    const spec = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
    const template = plotTemplate();
    const layout = { ...spec.layout, template, modebar: template.layout.modebar, ...(width ? { width } : {}) };
    return Plotly.react(holder, spec.data, layout, CONFIG).then(
      () => Object.assign(holder.dataset, { drawn: "", theme: isDark() ? "dark" : "light" }),
      (error) => holder.append(`The plot could not be drawn: ${error.message}`),
    );
  }

  // One plot per turn of the event loop: the page stays usable while many are drawn.
  function drawAll(pending) {
    if (!pending.length) return;
    all("noscript", pending[0]).forEach((element) => element.remove());
    draw(pending[0], isFolded(pending[0]) ? document.querySelector("main").clientWidth : 0).then(() => setTimeout(() => drawAll(pending.slice(1)), 0));
  }
  // What is folded has no width of its own; it is drawn after all else, and again when it is opened.
  const isFolded = (holder) => holder.closest("details:not([open])") !== null;
  drawAll([...holders.filter((holder) => !isFolded(holder)), ...holders.filter(isFolded)]);

  const redraw = (width) => holders.forEach((holder) => draw(holder, width));
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("wsss-probe-theme", root.dataset.theme);
    } catch {
      // Without storage the choice holds until the page is closed.
    }
    redraw();
  });
  systemDark.addEventListener("change", () => redraw());

  // -- folded sections: opened by a link to them, by a click, and all of a chapter at once ---------
  all("details.fold").forEach((fold) => fold.addEventListener("toggle", () => {
    if (fold.open && !before) all(".plot", fold).forEach((holder) => draw(holder));
  }));

  function reveal(hash) {
    const target = hash && document.getElementById(decodeURIComponent(hash.slice(1)));
    if (!target) return;
    const fold = target.querySelector(":scope > details.fold") ?? target;
    for (let part = fold; part; part = part.parentElement) if (part.localName === "details") part.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", () => reveal(location.hash));
  all(".contents a").forEach((link) => link.addEventListener("click", () => reveal(link.hash)));
  reveal(location.hash);

  all("[data-fold]").forEach((button) => {
    const folds = all("details.fold", document.getElementById(button.dataset.fold));
    const title = button.getAttribute("aria-label").replace(/^Open all/, "");
    const name = () => {
      button.textContent = folds.every((fold) => fold.open) ? "Fold all" : "Open all";
      button.setAttribute("aria-label", button.textContent + title);
    };
    button.addEventListener("click", () => {
      const open = !folds.every((fold) => fold.open);
      folds.forEach((fold) => (fold.open = open));
    });
    folds.forEach((fold) => fold.addEventListener("toggle", name));
  });

  // -- print: always light, everything open, plots as wide as the paper -------------------------
  addEventListener("beforeprint", () => {
    const closed = all("details:not([open])");
    before = { theme: root.dataset.theme, closed };
    root.dataset.theme = "light";
    closed.forEach((element) => (element.open = true));
    redraw(680);
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    if (before.theme) root.dataset.theme = before.theme;
    else delete root.dataset.theme;
    before.closed.forEach((element) => (element.open = false));
    before = null;
    redraw();
  });
  document.getElementById("print").addEventListener("click", () => print());

  // -- tables ---------------------------------------------------------------------------------
  function compare(column, sign) {
    return (one, other) => {
      const [a, b] = [one.cells[column], other.cells[column]];
      const undefinedLast = (a.title === "undefined") - (b.title === "undefined");
      if (undefinedLast) return undefinedLast;
      const numbers = "order" in a.dataset && "order" in b.dataset;
      const difference = numbers
        ? Number(a.dataset.order) - Number(b.dataset.order)
        : a.textContent.localeCompare(b.textContent, "en", { numeric: true });
      return sign * difference;
    };
  }

  const isDetail = (row) => row.classList.contains("detail");
  const dataRows = (body) => [...body.rows].filter((row) => !isDetail(row));
  // A row, and the row of pictures that it opens, where it has one.
  const pair = (row) => [row, row.nextElementSibling].filter((other) => other === row || (other && isDetail(other)));

  all("button.sort").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th"), body = button.closest("table").tBodies[0];
    const rising = head.getAttribute("aria-sort") !== "ascending";
    all("th", head.parentElement).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const sorted = dataRows(body).sort(compare(head.cellIndex, rising ? 1 : -1));
    body.append(...sorted.map(pair).flat());
  }));

  all("button.opener").forEach((button) => {
    const detail = document.getElementById(button.getAttribute("aria-controls"));
    const show = (open) => {
      button.setAttribute("aria-expanded", open);
      detail.classList.toggle("open", open);
    };
    show(false);
    button.addEventListener("click", () => show(button.getAttribute("aria-expanded") !== "true"));
  });

  // -- filters: text in any cell, and comparisons with a column that is named whole ---------------
  const isEqual = (cell, value, wanted) => Number(cell.dataset.order ?? NaN) === wanted || plain(cell.textContent) === plain(value);
  const ordered = (holds) => (cell, value, wanted) => "order" in cell.dataset && holds(Number(cell.dataset.order), wanted);
  const OPERATORS = {
    "<": ordered((a, b) => a < b), ">": ordered((a, b) => a > b),
    "<=": ordered((a, b) => a <= b), ">=": ordered((a, b) => a >= b),
    "=": isEqual, "!=": (...given) => !isEqual(...given),
  };
  const ASCII = { "≤": "<=", "≥": ">=", "≠": "!=", "==": "=" };
  const plain = (text) => text.trim().toLowerCase().replaceAll("−", "-");

  function parse(query, names) {
    const known = names.filter(Boolean).map((name) => name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|");
    const equal = String.raw`(!=|==|[=≠])\s*("[^"]*"|.*?)(?=\s+and\s|\s*[;&]|,\s|,?\s*$)`;
    const pattern = new RegExp(String.raw`(?<![\p{L}\p{N}_])(${known})\s*(?:${equal}|(<=|>=|[<>≤≥])\s*([^\s;&]*))`, "giu");
    const tests = [];
    const rest = query.replace(pattern, (_whole, name, same, text, sign, size) => {
      const value = (text ?? size).replace(/^"|"$|,$/g, ""), wanted = Number(plain(value).replace(",", ".") || NaN);
      const column = names.findIndex((other) => other.toLowerCase() === name.toLowerCase());
      const holds = OPERATORS[ASCII[same ?? sign] ?? same ?? sign];
      if (value) tests.push((row) => row.cells[column].title !== "undefined" && holds(row.cells[column], value, wanted));
      return "\n";
    });
    const texts = rest.replace(/(?:\band\b|[,;&])?\s*\n\s*(?:\band\b|[,;&])?/gi, "\n").split("\n").map(plain).filter(Boolean);
    return { tests, texts };
  }

  function filterRows(input) {
    const table = document.getElementById(input.dataset.grid).querySelector("table"), rows = dataRows(table.tBodies[0]);
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    const { tests, texts } = parse(input.value, names);
    const held = rows.map((row) => plain([...row.cells].map((cell) => cell.textContent).join("\n")));
    // While the name of a column is being typed, no row has it: that is no reason to hide them all.
    const wanted = texts.filter((text) => held.some((cells) => cells.includes(text)) || !names.some((name) => plain(name).includes(text)));
    let shown = 0;
    rows.forEach((row, at) => {
      const kept = tests.every((holds) => holds(row)) && wanted.every((text) => held[at].includes(text));
      pair(row).forEach((part) => (part.hidden = !kept));
      shown += kept;
    });
    const failed = !shown && texts.some((text) => /[<>=≤≥≠]/.test(text)) ? "; a comparison needs a column's whole name" : "";
    const count = input.closest(".filter").querySelector(".filter-count");
    count.textContent = input.value.trim() ? `${shown} of ${rows.length} rows${failed}` : "";
  }
  all(".filter-input").forEach((input) => input.addEventListener("input", () => filterRows(input)));

  // -- galleries ------------------------------------------------------------------------------
  all("img[data-same]").forEach((image) => (image.src = document.getElementById(image.dataset.same).src));

  all("[data-switch]").forEach((box) => {
    const apply = () => box.closest(".gallery").classList.toggle(`with-${box.dataset.switch}`, box.checked);
    box.addEventListener("change", apply);
    apply();
  });
  all("[data-opacity]").forEach((slider) => slider.addEventListener("input", () => {
    slider.closest(".gallery").style.setProperty("--opacity", slider.value / 100);
  }));

  all("[data-pictures]").forEach((input) => input.addEventListener("input", () => {
    const maps = all(".picture", input.closest(".gallery")).filter((picture) => picture.querySelector(".layer-overlay"));
    const asked = input.value.split(",").map((name) => plain(name).split(/\s+/).filter(Boolean)).filter((words) => words.length);
    const fits = (picture) => {
      const name = plain(picture.querySelector(".picture-name").textContent);
      return !asked.length || asked.some((words) => words.every((word) => name.includes(word)));
    };
    maps.forEach((picture) => (picture.hidden = !fits(picture)));
    const shown = maps.filter((picture) => !picture.hidden).length;
    input.closest(".filter").querySelector(".filter-count").textContent = asked.length ? `${shown} of ${maps.length} maps` : "";
  }));

  const zoom = document.getElementById("zoom");
  all("button.layers").forEach((button) => button.addEventListener("click", () => {
    const body = zoom.querySelector(".zoom-body");
    const copy = document.createElement("div");
    copy.className = "layers";
    copy.style.aspectRatio = button.style.aspectRatio;
    copy.append(...[...button.children].map((layer) => layer.cloneNode()));
    all("[id]", copy).forEach((layer) => layer.removeAttribute("id"));
    const gallery = button.closest(".gallery");
    body.className = `zoom-body ${gallery.className}`;
    body.style.setProperty("--opacity", gallery.style.getPropertyValue("--opacity") || 0.75);
    body.style.setProperty("--ratio", button.style.aspectRatio);
    body.replaceChildren(copy);
    zoom.querySelector(".zoom-label").textContent = button.getAttribute("aria-label").replace(/^Enlarge: /, "");
    zoom.showModal();
  }));
  zoom.addEventListener("click", (event) => event.target === zoom && zoom.close());

  // -- contents: closed where it would fill a small screen; the current part is marked ----------
  const contents = document.querySelector(".contents details");
  const narrow = matchMedia("(max-width: 62rem)");
  const arrange = () => (contents.open = !narrow.matches);
  narrow.addEventListener("change", arrange);
  arrange();

  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "location");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  all(".chapter, .section").forEach((part) => watcher.observe(part));
})();
