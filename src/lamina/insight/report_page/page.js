"use strict";
// What an image says is only ever text here: nodes are made by name and filled by textContent.
(() => {
  const TONES = 12, MAX_TILES = 1500, MAX_ANSWERS = 50, HEAD = 20, GAP = 2;
  const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  const report = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  function make(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function spelled(size) {
    let value = size, unit = 0;
    while (unit < UNITS.length - 1 && Number(value.toPrecision(3)) >= 1000) { value /= 1000; unit += 1; }
    return Number(value.toPrecision(3)) + UNITS[unit];
  }

  const files = (count) => count === 1 ? "1 file" : `${count.toLocaleString("en")} files`;

  // -- theme: the system's, or what #dark and #light say

  function chooseTheme() {
    const wanted = location.hash.slice(1);
    if (wanted === "dark" || wanted === "light") root.dataset.theme = wanted;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    byId("theme").textContent = isDark ? "Light" : "Dark";
    byId("theme").setAttribute("aria-label", `Show the page in ${isDark ? "light" : "dark"} colours`);
    return isDark;
  }

  function setUpTheme() {
    byId("theme").hidden = false;
    byId("theme").addEventListener("click", () => {
      history.replaceState(null, "", chooseTheme() ? "#light" : "#dark");
      chooseTheme();
    });
    addEventListener("hashchange", chooseTheme);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", chooseTheme);
    chooseTheme();
  }

  // -- the tree of files: parents come before their children

  const nodes = report.Files;
  const children = nodes.map(() => []);
  const paths = [];
  nodes.forEach((node, number) => {
    if (node.Parent >= 0) children[node.Parent].push(number);
    const above = node.Parent > 0 ? paths[node.Parent] : "";
    paths.push(number === 0 ? "/" : `${above}/${node.Name || `(${node.Files.toLocaleString("en")} smaller files)`}`);
  });
  children.forEach((each) => each.sort((one, other) => nodes[other].Size - nodes[one].Size || one - other));
  const isPlace = (number) => nodes[number].Kind === "directory";
  const isRest = (number) => nodes[number].Kind === "rest";

  function typeOf(name) {
    if (/\.so(\.|$)/.test(name)) return ".so";
    const found = /[^.](\.[^.\s]{1,8})$/.exec(name);
    return found ? found[1].toLowerCase() : "no extension";
  }

  /** For each node the bytes below it, by a key of its leaves; a folded directory shows its largest. */
  function sums(keyOf) {
    const found = nodes.map(() => new Map());
    for (let number = nodes.length - 1; number > 0; number -= 1) {
      const node = nodes[number];
      if (!isPlace(number) && !isRest(number) && node.Size) found[number].set(keyOf(node), node.Size);
      const above = found[node.Parent];
      for (const [key, size] of found[number]) above.set(key, (above.get(key) || 0) + size);
    }
    return found;
  }

  function layerTones() {
    const tones = new Map();
    document.querySelectorAll("details[data-layer]").forEach((each) => tones.set(Number(each.dataset.layer), each.dataset.tone));
    return tones;
  }

  function colouring(keyOf, toneOf, nameOf) {
    const below = sums(keyOf);
    const ranked = [...below[0]].sort((one, other) => other[1] - one[1]);
    const tones = toneOf(ranked.map(([key]) => key));
    const largest = below.map((found) => {
      let best = null, size = 0;
      for (const [key, bytes] of found) if (bytes > size) { best = key; size = bytes; }
      return best;
    });
    return { below, ranked, largest, nameOf, tone: (key) => tones.get(key) ?? "x" };
  }

  const instruction = (number) => report.Layers[number]?.Instruction || "(its history does not say)";
  const colourings = {
    layer: colouring((node) => node.Layer, layerTones, (key) => `${key} ${instruction(key)}`),
    type: colouring((node) => typeOf(node.Name), (keys) => new Map(keys.slice(0, TONES).map((key, place) => [key, String(place)])), (key) => key),
  };
  let colours = colourings.layer;
  let only = null;  // the layer or type whose files stand out
  let place = 0;  // the directory that the map shows
  let chosen = -1;

  // -- the map

  /** Bruls, Huizing, van Wijk: Squarified Treemaps, 2000. Sizes are positive, the largest first. */
  function squarify(numbers, x, y, width, height, draw) {
    const total = numbers.reduce((sum, number) => sum + nodes[number].Size, 0);
    const scale = width * height / total;
    let start = 0;
    while (start < numbers.length && width > 0 && height > 0) {
      const side = Math.min(width, height);
      const first = nodes[numbers[start]].Size * scale;
      let end = start, area = 0, worst = Infinity;
      while (end < numbers.length) {
        const last = nodes[numbers[end]].Size * scale;
        const ratio = Math.max(side * side * first / (area + last) ** 2, (area + last) ** 2 / (side * side * last));
        if (ratio > worst) break;
        worst = ratio; area += last; end += 1;
      }
      const depth = area / side, isColumn = width >= height;
      let along = 0;
      for (const number of numbers.slice(start, end)) {
        const length = nodes[number].Size * scale / depth;
        if (isColumn) draw(number, x, y + along, depth, length); else draw(number, x + along, y, length, depth);
        along += length;
      }
      if (isColumn) { x += depth; width -= depth; } else { y += depth; height -= depth; }
      start = end;
    }
  }

  const map = byId("map");
  let tiles = [];

  function drawMap() {
    const held = document.activeElement?.classList.contains("tile");
    tiles = [];
    map.replaceChildren();
    if (!nodes[place].Size) map.append(make("p", "empty", "No file here has any bytes."));
    else drawInside(place, 0, 0, map.clientWidth, map.clientHeight, 0);
    drawCrumbs();
    paint();
    const entry = tiles.find((tile) => tile.number === chosen) || tiles[0];
    if (entry) { entry.made.tabIndex = 0; if (held) entry.made.focus({ preventScroll: true }); }
  }

  function drawInside(above, x, y, width, height, depth) {
    const numbers = children[above].filter((number) => nodes[number].Size > 0);
    squarify(numbers, x, y, width, height, (number, left, top, wide, high) => {
      if (wide < 3 || high < 3 || tiles.length >= MAX_TILES) return;
      const isFrame = isPlace(number) && depth < 6 && wide > 70 && high > 52;
      drawTile(number, left, top, wide, high, isFrame);
      if (isFrame) drawInside(number, left + GAP, top + HEAD, wide - 2 * GAP, high - HEAD - GAP, depth + 1);
    });
  }

  function drawTile(number, x, y, width, height, isFrame) {
    const made = make("button", isFrame ? "tile frame" : "tile");
    made.type = "button";
    made.tabIndex = -1;
    made.style.left = `${x}px`;
    made.style.top = `${y}px`;
    made.style.width = `${width}px`;
    made.style.height = `${height}px`;
    if (isRest(number)) made.classList.add("rest");
    made.setAttribute("aria-label", `${paths[number]}, ${spelled(nodes[number].Size)}${isPlace(number) ? ", directory" : ""}`);
    if (width > 34 && height > 17) {
      const name = nodes[number].Name || files(nodes[number].Files);
      if (isFrame) made.append(make("span", "", `${name} ${spelled(nodes[number].Size)}`));
      else made.append(make("span", "", name), height > 36 ? make("span", "size", spelled(nodes[number].Size)) : "");
    }
    const tile = { number, made, isFrame, x: x + width / 2, y: y + (isFrame ? HEAD / 2 : height / 2) };
    made.addEventListener("click", () => act(tile));
    made.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") describe(number); });
    made.addEventListener("focus", () => describe(number));
    made.addEventListener("keydown", (event) => move(event, tile));
    map.append(made);
    tiles.push(tile);
  }

  /** Directories open; anything else is chosen. */
  function act(tile) {
    if (isPlace(tile.number)) show(tile.number); else choose(tile.number);
  }

  function show(number) {
    place = number;
    chosen = -1;
    drawMap();
    describe(number);
  }

  function choose(number) {
    chosen = number;
    for (const tile of tiles) tile.made.classList.toggle("chosen", tile.number === number);
    describe(number);
  }

  const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  /** The nearest tile in the direction of the arrow; what lies aside counts double. */
  function move(event, tile) {
    if (event.key === "Escape" || event.key === "Backspace") {
      if (place) { event.preventDefault(); show(nodes[place].Parent); }
      return;
    }
    const way = WAYS[event.key];
    if (!way) return;
    event.preventDefault();
    let best = null, least = Infinity;
    for (const other of tiles) {
      const along = (other.x - tile.x) * way[0] + (other.y - tile.y) * way[1];
      const aside = Math.abs((other.x - tile.x) * way[1] + (other.y - tile.y) * way[0]);
      if (other !== tile && along > 1 && along + 2 * aside < least) { best = other; least = along + 2 * aside; }
    }
    if (!best) return;
    tile.made.tabIndex = -1;
    best.made.tabIndex = 0;
    best.made.focus();
  }

  function paint() {
    for (const { number, made, isFrame } of tiles) {
      const kind = colours.largest[number];
      made.className = made.className.replace(/ ?tone-\w+/, "");
      if (!isFrame) made.classList.add(`tone-${kind === null ? "x" : colours.tone(only !== null && colours.below[number].has(only) ? only : kind)}`);
      made.classList.toggle("dim", !isFrame && only !== null && !colours.below[number].has(only));
      made.classList.toggle("chosen", number === chosen);
    }
    drawLegend();
  }

  function drawCrumbs() {
    const way = [];
    for (let number = place; number >= 0; number = nodes[number].Parent) way.unshift(number);
    byId("crumbs").replaceChildren(...way.map((number) => {
      const button = make("button", "", number === 0 ? "image" : nodes[number].Name);
      button.type = "button";
      if (number === place) button.setAttribute("aria-current", "location");
      button.addEventListener("click", () => show(number));
      return make("li", "", button);
    }));
  }

  function drawLegend() {
    const legend = byId("legend");
    const shown = colours.ranked.slice(0, TONES).map(([key, size]) => {
      const swatch = make("i", `tone-${colours.tone(key)}`);
      const button = make("button", "", swatch, make("span", "text", colours.nameOf(key)), make("span", "size", spelled(size)));
      button.type = "button";
      button.setAttribute("aria-pressed", String(only === key));
      button.addEventListener("click", () => highlight(only === key ? null : key));
      return button;
    });
    const more = colours.ranked.length - shown.length;
    legend.replaceChildren(...shown, more > 0 ? make("span", "remark", `and ${more.toLocaleString("en")} more`) : "");
  }

  function highlight(key) {
    only = key;
    const chip = byId("only");
    chip.hidden = key === null;
    if (key !== null) chip.textContent = colours === colourings.layer ? `Only layer ${key} ×` : `Only ${key} ×`;
    paint();
  }

  function colourBy(name) {
    colours = colourings[name];
    document.querySelectorAll("[data-colour]").forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.colour === name)));
    highlight(null);
  }

  // -- who put it there

  const hiddenAt = new Map();
  for (const row of report.Obscured.Rows) {
    if (!hiddenAt.has(row.Path)) hiddenAt.set(row.Path, []);
    hiddenAt.get(row.Path).push(row);
  }

  function layerLink(number) {
    const link = make("a", "", `layer ${number}`);
    link.href = `#layer-${number}`;
    link.dataset.layer = number;
    return link;
  }

  function origin(number) {
    const node = nodes[number];
    if (isRest(number)) return make("p", "remark", "Too small for this page, one by one.");
    return make("p", "", isPlace(number) ? "last set by " : "from ", layerLink(node.Layer), " by ", code(node.Layer));
  }

  function code(layer) {
    const text = instruction(layer);
    return make("code", "", text.length > 200 ? `${text.slice(0, 200)}…` : text);
  }

  const lower = (row) => make("p", "remark", "hides ", layerLink(row.Layer), `'s ${row.Kind}, ${spelled(row.Size)}, since `, layerLink(row.HiddenBy));

  function describe(number) {
    const node = nodes[number];
    const what = isPlace(number) ? `${spelled(node.Size)} in ${files(node.Files)}` : isRest(number) ? spelled(node.Size) : `${node.Kind}, ${spelled(node.Size)}`;
    const hidden = hiddenAt.get(paths[number]) || [];
    byId("selected").replaceChildren(
      make("p", "", make("code", "path", paths[number]), ` ${what}`), origin(number), ...hidden.map(lower),
    );
  }

  function answer(number) {
    const path = make("button", "path", paths[number]);
    path.type = "button";
    path.addEventListener("click", () => {
      show(isPlace(number) ? number : nodes[number].Parent);
      choose(number);
      byId("files").scrollIntoView();
    });
    return make("li", "", path, ` ${spelled(nodes[number].Size)}`, origin(number), ...(hiddenAt.get(paths[number]) || []).map(lower));
  }

  function goneAnswer(row) {
    return make(
      "li", "", make("code", "path", row.Path), ` ${spelled(row.Size)} `, make("span", "tag", "obscured"),
      make("p", "", "from ", layerLink(row.Layer), " by ", code(row.Layer)),
      make("p", "remark", `${row.Reason} by `, layerLink(row.HiddenBy), ": ", code(row.HiddenBy)),
    );
  }

  function find() {
    const wanted = byId("query").value.trim().toLowerCase();
    const found = byId("found");
    if (!wanted) { found.replaceChildren(); return; }
    const matches = [];
    for (let number = 1; number < nodes.length; number += 1) {
      if (!isRest(number) && paths[number].toLowerCase().includes(wanted)) matches.push(number);
    }
    const seen = new Set(matches.map((number) => paths[number]));
    const gone = report.Obscured.Rows.filter((row) => !seen.has(row.Path) && row.Path.toLowerCase().includes(wanted));
    const total = matches.length + gone.length;
    // The shortest are the likeliest: /etc/passwd before /usr/share/doc/etc/passwd.
    matches.sort((one, other) => paths[one].length - paths[other].length);
    const rows = [...matches.slice(0, MAX_ANSWERS).map(answer), ...gone.map(goneAnswer)].slice(0, 2 * MAX_ANSWERS);
    const note = total === 0 ? "Nothing in this page has that in its path." : total > rows.length ? `${rows.length} of ${total.toLocaleString("en")} are shown.` : "";
    found.replaceChildren(make("ol", "answers", ...rows), note ? make("p", "more", note) : "");
  }

  // -- layers

  function openLayer(number) {
    const details = byId(`layer-${number}`);
    if (details) details.open = true;
  }

  function setUpLayers() {
    document.querySelectorAll("details[data-layer]").forEach((each) => each.addEventListener("toggle", () => {
      const number = Number(each.dataset.layer);
      if (each.open) {
        if (colours !== colourings.layer) colourBy("layer");
        highlight(number);
      } else if (colours === colourings.layer && only === number) highlight(null);
    }));
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-layer]");
      if (link) openLayer(Number(link.dataset.layer));
    });
    const wanted = /^#layer-(\d+)$/.exec(location.hash);
    if (wanted) openLayer(Number(wanted[1]));
  }

  // -- copying: the clipboard's own way where the page may, the old one elsewhere

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function setUpCopying() {
    document.querySelectorAll(".fix").forEach((each) => {
      const button = make("button", "quiet", "Copy");
      button.type = "button";
      button.addEventListener("click", async () => {
        await copy(each.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
      each.append(button);
    });
  }

  root.classList.add("js");
  setUpTheme();
  setUpLayers();
  setUpCopying();
  document.querySelectorAll("[data-colour]").forEach((each) => each.addEventListener("click", () => colourBy(each.dataset.colour)));
  byId("only").addEventListener("click", () => highlight(null));
  byId("query").addEventListener("input", find);
  map.addEventListener("pointerleave", () => describe(chosen >= 0 ? chosen : place));
  drawMap();
  describe(0);
  const size = () => `${map.clientWidth} ${map.clientHeight}`;
  let drawn = size();
  new ResizeObserver(() => {
    if (size() !== drawn) { drawn = size(); drawMap(); }
  }).observe(map);
})();
