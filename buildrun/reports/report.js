"use strict";
{
const byId = (id) => document.getElementById(id);

/** Makes an element; data becomes text, never markup. */
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const steps = [...byId("list").querySelectorAll(":scope > details")].map((element, number) => {
  const [mark, name, reason, word, took] = [...element.firstElementChild.children].map((part) => part.textContent);
  const [start, seconds] = (element.dataset.t ?? "").split(" ").map(Number);
  const state = element.className;
  return { element, number, mark, name, reason, word, took, state, seconds, start: element.dataset.t ? start : null };
});

/** Puts back what is packed of long runs; all of it was escaped when the file was written. */
async function unpack() {
  const text = byId("packed").content.textContent;
  if (!text || !window.DecompressionStream) return; // an old browser shows the lines alone
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const parsed = new DOMParser().parseFromString(await new Response(stream).text(), "text/html");
  for (const body of [...parsed.body.children]) steps[body.dataset.of].element.append(body);
}

function open(step) {
  step.element.hidden = false;
  step.element.open = true;
  step.element.scrollIntoView({ block: "start" });
  step.element.firstElementChild.focus({ preventScroll: true });
}

function openFromAddress() {
  const step = steps[/^#s(\d+)$/.exec(location.hash)?.[1]];
  if (step) open(step);
}

/* Tips, and arrow keys among the parts of a chart. */

const tip = byId("tip");

function showTip(part, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = part.getBoundingClientRect();
  const left = Math.min(box.left, innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 0 ? above : box.bottom + 6}px`;
}

const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { capture: true, passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

function equip(part, text, isFirst) {
  part.tabIndex = isFirst ? 0 : -1;
  part.setAttribute("aria-label", text.replaceAll("\n", ", "));
  part.addEventListener("mouseenter", () => showTip(part, text));
  part.addEventListener("focus", () => showTip(part, text));
  part.addEventListener("mouseleave", hideTip);
  part.addEventListener("blur", hideTip);
}

function walkByArrows(chart) {
  chart.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const parts = [...chart.querySelectorAll("a")];
    const next = by && parts[parts.indexOf(document.activeElement) + by];
    if (!next) return;
    event.preventDefault();
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

function link(step, className) {
  const part = make("a", `${className} ${step.state}`);
  part.href = `#s${step.number}`;
  part.addEventListener("click", () => open(step));
  return part;
}

function describe(step) {
  const began = step.start === null ? "" : `from ${step.start.toFixed(2)} s on`;
  const how = [`${step.mark} ${step.word}`, step.took, began].filter(Boolean).join(", ");
  return `${step.name}\n${how}\n${step.reason}`;
}

/* Timeline */

function time(seconds, step) {
  if (step >= 60) return seconds >= 3600 ? `${+(seconds / 3600).toFixed(2)} h` : `${seconds / 60} min`;
  return `${+seconds.toFixed(3)} s`;
}

function tickSize(total) {
  const sizes = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600];
  const count = innerWidth < 640 ? 4 : 8;
  return sizes.find((size) => total / size <= count) ?? Math.ceil(total / count / 3600) * 3600;
}

/** Puts each step into the first lane that is free when it begins; returns their number. */
function assignLanes(timed, total) {
  const ends = [];
  const slack = Math.max(.002, total / 1000);
  for (const step of timed) {
    let lane = ends.findIndex((end) => end <= step.start + slack);
    if (lane < 0) lane = ends.length;
    ends[lane] = step.start + step.seconds;
    step.lane = lane;
  }
  return ends.length;
}

function drawTimeline() {
  const timed = steps.filter((step) => step.start !== null).sort((a, b) => a.start - b.start);
  if (timed.length < 2 || !timed.some((step) => step.seconds)) return;
  const chart = document.querySelector("#timeline .chart");
  byId("timeline").hidden = false;
  const total = timed.reduce((most, step) => Math.max(most, step.start + step.seconds), 0);
  const lanes = assignLanes(timed, total);
  const height = Math.max(4, Math.min(26, 420 / lanes));
  chart.style.height = `${lanes * height + 8}px`;
  const size = tickSize(total);
  for (let at = 0; at <= total * .97; at += size) {
    const tick = make("div", "tick");
    tick.style.left = `${100 * at / total}%`;
    tick.append(make("span", "", time(at, size)));
    chart.append(tick);
  }
  for (const [index, step] of timed.entries()) {
    const bar = link(step, "bar");
    const width = 100 * step.seconds / total;
    const pixels = chart.clientWidth * step.seconds / total;
    bar.style.left = `min(${100 * step.start / total}%, 100% - 4px)`;
    bar.style.width = `${width}%`;
    bar.style.top = `${step.lane * height + 4}px`;
    bar.style.height = bar.style.lineHeight = `${height > 8 ? height - 4 : height - 1}px`;
    if (pixels > 70 && height > 15) bar.textContent = `${step.mark} ${step.name}`;
    bar.classList.toggle("thin", pixels < 8);
    equip(bar, describe(step), index === 0);
    chart.append(bar);
  }
  for (const [{ state, mark, word }] of groupBy(timed, severity)) {
    const sample = make("span", "sample", `${mark} ${word}`);
    sample.prepend(make("i", `bar ${state}`));
    byId("legend").append(sample);
  }
  walkByArrows(chart);
}

/* Graph */

const HEIGHT = 30, BETWEEN = 12, MOST_NODES = 32;
let width = 176, across = 56;

/** Sets the level of each step: the most steps that lie before it. */
function findLevels() {
  const byNumber = (anchor) => steps[anchor.hash.slice(2)];
  for (const step of steps) step.after = [...step.element.querySelectorAll("dl a")].map(byNumber);
  const level = (step) => {
    if (step.level !== undefined) return step.level;
    step.level = 0; // also for what would lead back to itself
    return step.level = step.after.reduce((most, other) => Math.max(most, level(other) + 1), 0);
  };
  steps.forEach(level);
}

const SEVERITY = ["failed", "cancelled", "skipped", "submitted", "unknown", "ok", "cached", "up-to-date"];
const severity = (step) => SEVERITY.indexOf(step.state);

/** Makes a node of steps that are shown as one. */
function makeNode(members, label) {
  const worst = members.reduce((most, step) => (severity(step) < severity(most) ? step : most));
  return { members, label, worst, level: members[0].level, near: [], order: 0, y: 0, height: HEIGHT };
}

/** Returns a node for each step or, where these are too many, for each entry point, or level. */
function makeNodes() {
  const entryPoint = (step) => step.name.split("[")[0];
  const levels = steps.reduce((most, step) => Math.max(most, step.level), 0) + 1;
  const band = Math.ceil(levels / 40);
  const ways = [
    [(step) => step.number, (step) => step.name],
    [(step) => `${step.level} ${entryPoint(step)}`, entryPoint],
    [(step) => Math.floor(step.level / band), (step) => nameBand(step.level - step.level % band + 1, band)],
  ];
  const [groups, label] = ways.map(([key, label]) => [groupBy(steps, key), label])
    .find(([groups], index) => groups.length <= MOST_NODES || index === 2);
  return groups.map((members) => makeNode(members, label(members[0])));
}

const nameBand = (first, size) => (size === 1 ? `level ${first}` : `${first}–${first + size - 1}`);

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  return [...groups.values()];
}

/** Returns the nodes level by level; bends stand for edges that pass a level, one for each source. */
function makeLayers(nodes) {
  const places = [...new Set(nodes.map((node) => node.level))].sort((a, b) => a - b);
  const layers = places.map(() => []);
  const nodeOf = new Map();
  for (const node of nodes) {
    node.layer = places.indexOf(node.level);
    layers[node.layer].push(node);
    for (const step of node.members) nodeOf.set(step, node);
  }
  for (const node of nodes) {
    const sources = new Set(node.members.flatMap((step) => step.after.map((other) => nodeOf.get(other))));
    const earlier = [...sources].filter((source) => source.layer < node.layer);
    node.paths = earlier.map((source) => [...passBy(source, node, layers), node]);
  }
  return layers;
}

/** Returns what an edge goes through, from its source on. */
function passBy(source, target, layers) {
  source.bends ??= [source];
  for (let at = source.bends.length; source.layer + at < target.layer; at++) {
    const bend = { layer: source.layer + at, near: [], order: 0, y: 0, height: 4 };
    source.bends.push(bend);
    layers[bend.layer].push(bend);
    join(source.bends[at - 1], bend);
  }
  const way = source.bends.slice(0, target.layer - source.layer);
  join(way.at(-1), target);
  return way;
}

function join(before, after) {
  before.near.push(after);
  after.near.push(before);
}

/** Orders each layer by where its neighbours are, back and forth, then places it as near as it can. */
function arrange(layers) {
  const meanOrder = (part) => part.near.reduce((sum, other) => sum + other.order, 0) / part.near.length;
  for (const layer of layers) layer.forEach((part, index) => { part.order = index / layer.length; });
  for (let round = 0; round < 6; round++) {
    for (const layer of round % 2 ? layers.toReversed() : layers) {
      const wanted = new Map(layer.map((part) => [part, part.near.length ? meanOrder(part) : part.order]));
      layer.sort((a, b) => wanted.get(a) - wanted.get(b));
      layer.forEach((part, index) => { part.order = (index + .5) / layer.length; });
    }
  }
  for (let round = 0; round < 9; round++) { // the last one goes from left to right
    const isForward = round % 2 === 0;
    for (const layer of isForward ? layers : layers.toReversed()) {
      const wanted = layer.map((part) => {
        const before = part.near.filter((other) => (other.layer < part.layer) === isForward);
        return before.length ? before.reduce((sum, other) => sum + other.y, 0) / before.length : part.y;
      });
      let least = -Infinity, off = 0;
      layer.forEach((part, index) => {
        part.y = Math.max(wanted[index], least + part.height / 2);
        least = part.y + part.height / 2 + BETWEEN;
        off += part.y - wanted[index];
      });
      for (const part of layer) part.y -= off / layer.length;
    }
  }
  const all = layers.flat();
  const top = all.reduce((least, part) => Math.min(least, part.y - part.height / 2), Infinity);
  for (const part of all) part.y -= top;
  return all.reduce((most, part) => Math.max(most, part.y + part.height / 2), 0);
}

function draw(way) {
  const left = (part) => part.layer * (width + across);
  return way.map((part, index) => {
    if (!index) return `M${left(part) + width} ${part.y}`;
    const x = left(part);
    const half = x - across / 2;
    return `C${half} ${way[index - 1].y} ${half} ${part.y} ${x} ${part.y}${part.members ? "" : `h${width}`}`;
  }).join("");
}

function drawGraph() {
  findLevels();
  if (!steps.some((step) => step.after.length)) return;
  const nodes = makeNodes();
  const layers = makeLayers(nodes);
  const height = arrange(layers);
  const chart = document.querySelector("#graph .chart");
  byId("graph").hidden = false;
  const room = chart.clientWidth / layers.length;
  if (room < width + across) [width, across] = room > 140 ? [room - 34, 34] : [136, 30];
  const canvas = make("div", "canvas");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  canvas.style.width = `${layers.length * (width + across) - across}px`;
  canvas.style.height = `${height}px`;
  svg.setAttribute("width", canvas.style.width);
  svg.setAttribute("height", height);
  canvas.append(svg);
  for (const node of nodes) {
    for (const way of node.paths) {
      const path = document.createElementNS(svg.namespaceURI, "path");
      path.setAttribute("d", draw(way));
      svg.append(path);
      (node.lines ??= []).push(path);
      (way[0].lines ??= []).push(path);
    }
  }
  nodes.forEach((node, index) => canvas.append(nodePart(node, index === 0)));
  chart.append(canvas);
  walkByArrows(chart);
}

function nodePart(node, isFirst) {
  const { members, worst } = node;
  const part = link(worst, "node");
  part.style.left = `${node.layer * (width + across)}px`;
  part.style.top = `${node.y - HEIGHT / 2}px`;
  part.style.width = `${width}px`;
  part.style.height = `${HEIGHT}px`;
  part.append(make("i", "", worst.mark), cutInTheMiddle(node.label));
  if (members.length > 1) part.append(make("small", "", `× ${members.length}`));
  const counts = groupBy(members, severity).map((same) => `${same.length} ${same[0].word}`).join(", ");
  equip(part, members.length > 1 ? `${node.label}\n${counts}` : describe(worst), isFirst);
  const mark = (on) => () => node.lines?.forEach((line) => line.classList.toggle("near", on));
  for (const name of ["mouseenter", "focus"]) part.addEventListener(name, mark(true));
  for (const name of ["mouseleave", "blur"]) part.addEventListener(name, mark(false));
  return part;
}

/** Returns a name that, where there is no room for it, keeps its end: names often begin alike. */
function cutInTheMiddle(name) {
  const part = make("b", "");
  const end = name.length > 12 ? name.slice(-7) : "";
  part.append(make("span", "", name.slice(0, name.length - end.length)), make("span", "", end));
  return part;
}

/* Pictures of all steps, small */

function showPictures() {
  const place = document.querySelector("#pictures .pictures");
  for (const step of steps) {
    for (const image of step.element.querySelectorAll("img")) {
      const part = link(step, "picture");
      part.append(image.cloneNode(), make("small", "", image.alt));
      place.append(part);
    }
  }
  byId("pictures").hidden = !place.children.length;
}

/* Filter and search */

const MOST_MATCHES = 5000;
let chosen = "";
let matches = [];
let current = -1;

function makeFilters() {
  const states = groupBy(steps, (step) => step.state);
  if (states.length < 2) return;
  const button = (state, text, count) => {
    const made = make("button", "", text);
    made.type = "button";
    made.append(make("small", "", count));
    made.ariaPressed = state === chosen;
    made.addEventListener("click", () => {
      chosen = chosen === state ? "" : state;
      for (const other of byId("states").children) other.ariaPressed = other === made ? state === chosen : false;
      if (!chosen) byId("states").firstChild.ariaPressed = true;
      refresh();
    });
    byId("states").append(made);
  };
  button("", "All", steps.length);
  for (const same of states.sort((a, b) => severity(a[0]) - severity(b[0]))) {
    button(same[0].state, `${same[0].mark} ${same[0].word}`, same.length);
  }
}

/** Returns all text of a step in small letters, and where each of its nodes begins in it. */
function textOf(step) {
  if (step.texts) return step.texts;
  const walker = document.createTreeWalker(step.element, NodeFilter.SHOW_TEXT);
  const nodes = [];
  let length = 0, text = "";
  while (walker.nextNode()) {
    nodes.push({ node: walker.currentNode, at: length });
    text += walker.currentNode.data;
    length = text.length;
  }
  const small = text.toLowerCase();
  return step.texts = { nodes, text: small.length === length ? small : text };
}

function findIn(step, query) {
  const { nodes, text } = textOf(step);
  let index = 0;
  const locate = (at, isEnd) => {
    while (nodes[index + 1] && nodes[index + 1].at < at + !isEnd) index++;
    return [nodes[index].node, at - nodes[index].at];
  };
  let found = 0;
  for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) {
    found++;
    if (matches.length >= MOST_MATCHES) continue;
    const range = new Range();
    range.setStart(...locate(at, false));
    range.setEnd(...locate(at + query.length, true));
    matches.push({ range, step });
  }
  return found;
}

function refresh() {
  const query = byId("query").value.toLowerCase();
  let total = 0, hits = 0, shown = 0;
  matches = [];
  current = -1;
  for (const step of steps) {
    const fits = !chosen || step.state === chosen;
    const found = fits && query ? findIn(step, query) : 0;
    total += found;
    hits += found > 0;
    step.element.hidden = !fits || (query && !found);
    shown += !step.element.hidden;
  }
  byId("none").hidden = shown > 0;
  byId("found").textContent = query ? `${count(total, "match", "matches")} in ${count(hits, "step", "steps")}` : "";
  mark();
}

const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

function mark() {
  if (!CSS.highlights) return; // old browsers find, and go there
  CSS.highlights.set("found", new Highlight(...matches.map((match) => match.range)));
  const here = new Highlight(...(matches[current] ? [matches[current].range] : []));
  here.priority = 1;
  CSS.highlights.set("current", here);
}

/** Goes to the next match, and unfolds what it lies in. */
function goTo(by) {
  if (!matches.length) return;
  current = (current + by + matches.length + (current < 0 && by < 0)) % matches.length;
  const { range } = matches[current];
  const place = range.startContainer.parentElement;
  for (let at = place.closest("details"); at; at = at.parentElement.closest("details")) {
    if (!at.firstElementChild.contains(place)) at.open = true;
  }
  place.scrollIntoView({ block: "center" });
  const pre = place.closest("pre");
  if (pre) {
    pre.scrollTop += range.getBoundingClientRect().top - pre.getBoundingClientRect().top - pre.clientHeight / 2;
  }
  byId("found").textContent = `${current + 1} of ${count(matches.length, "match", "matches")}`;
  mark();
}

function equipSearch() {
  byId("query").addEventListener("input", refresh);
  byId("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter") goTo(event.shiftKey ? -1 : 1);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input")) return;
    event.preventDefault();
    byId("query").focus();
  });
  byId("tools").hidden = !steps.length;
}

/* Theme */

function equipTheme() {
  const root = document.documentElement;
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const tell = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  system.addEventListener("change", tell);
  tell();
  button.hidden = false;
}

async function start() {
  equipTheme();
  await unpack();
  const longest = steps.reduce((most, step) => Math.max(most, step.name.length), 0);
  byId("list").style.setProperty("--name", `${Math.min(longest + 2, 30)}ch`);
  drawTimeline();
  drawGraph();
  showPictures();
  makeFilters();
  equipSearch();
  for (const pre of document.querySelectorAll(".failed .log[open] pre:last-of-type")) pre.scrollTop = pre.scrollHeight;
  addEventListener("hashchange", openFromAddress);
  openFromAddress();
  document.body.dataset.ready = "";
}

start();
}
