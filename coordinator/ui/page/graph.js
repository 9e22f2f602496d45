// The flow as a graph: operators in layers, from sources to sinks, with their figures on them.

import { draw, say } from "./dom.js";
import { bytes, count, percent, rate, span } from "./format.js";

const WIDTH = 208, HEIGHT = 112, GAP_ALONG = 74, GAP_ACROSS = 20, LABEL = 30;

/** By operator: its layer (the longest way from a source) and its place in it (near those it is joined to). */
export const layout = (graph) => {
  const names = graph.operators.map((operator) => operator.name);
  const into = new Map(names.map((name) => [name, []]));
  for (const edge of graph.edges) into.get(edge.target)?.push(edge.source);
  const layer = new Map();
  const depth = (name, path = new Set()) => {
    if (layer.has(name)) return layer.get(name);
    if (path.has(name)) return 0;
    path.add(name);
    const found = Math.max(-1, ...into.get(name).map((above) => depth(above, path))) + 1;
    layer.set(name, found);
    return found;
  };
  names.forEach((name) => depth(name));
  const layers = [];
  for (const name of names) (layers[layer.get(name)] ??= []).push(name);
  const place = new Map();
  layers.forEach((members, number) => {
    const wanted = (name) => {
      const above = into.get(name).filter((up) => place.has(up));
      return above.length ? above.reduce((sum, up) => sum + place.get(up), 0) / above.length : 0;
    };
    if (number) members.sort((a, b) => wanted(a) - wanted(b));
    // Beside those it comes from where there is room, so that a chain is a straight line.
    let next = -Infinity;
    for (const name of members) {
      const at = number ? Math.max(wanted(name), next) : Math.max(0, next === -Infinity ? 0 : next);
      place.set(name, at);
      next = at + 1;
    }
  });
  const lowest = Math.min(...place.values());
  for (const [name, at] of place) place.set(name, at - lowest);
  return { layer, place, depth: layers.length, breadth: Math.max(...place.values()) + 1 };
};

const cut = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

const label = (edge) => {
  const how = { key: `by ${edge.keys.join(", ")}`, deal: "dealt", gather: "gathered", broadcast: "to all", spread: "spread" }[edge.exchange] ?? "";
  return [edge.port === "main" || edge.port === "groups" ? "" : edge.port, how].filter(Boolean).join(" · ");
};

export class Graph {
  constructor(element, onSelect) {
    this.element = element;
    this.onSelect = onSelect;
    this.nodes = new Map();
  }

  show(graph) {
    this.graph = graph;
    this.upright = this.element.clientWidth < 620;
    const { layer, place, depth, breadth } = layout(graph);
    const along = (this.upright ? HEIGHT : WIDTH) + (this.upright ? LABEL + 14 : GAP_ALONG);
    const across = (this.upright ? WIDTH : HEIGHT) + GAP_ACROSS;
    const spot = (name) => {
      const [a, b] = [layer.get(name) * along, place.get(name) * across];
      return this.upright ? [b, a] : [a, b];
    };
    const long = depth * along - (this.upright ? LABEL + 14 : GAP_ALONG), wide = breadth * across - GAP_ACROSS;
    const [width, height] = this.upright ? [wide, long] : [long, wide];
    // A little too long is made smaller; much too long is scrolled.
    const scale = this.upright ? 1 : Math.max(0.7, Math.min(1, this.element.clientWidth / (width + 12)));
    const svg = draw("svg", {
      width: (width + 8) * scale, height: (height + 8) * scale, viewBox: `-4 -4 ${width + 8} ${height + 8}`, role: "group",
      "aria-label": `The flow: ${graph.operators.length} operators`,
    });
    for (const edge of graph.edges) svg.append(...this.#edge(edge, spot));
    this.nodes.clear();
    for (const operator of graph.operators) svg.append(this.#node(operator, spot(operator.name)));
    this.element.replaceChildren(svg);
  }

  #edge(edge, spot) {
    const [x, y] = spot(edge.source), [u, v] = spot(edge.target);
    const [a, b, c, d] = this.upright
      ? [x + WIDTH / 2, y + HEIGHT, u + WIDTH / 2, v] : [x + WIDTH, y + HEIGHT / 2, u, v + HEIGHT / 2];
    const bend = this.upright ? `${a},${(b + d) / 2} ${c},${(b + d) / 2}` : `${(a + c) / 2},${b} ${(a + c) / 2},${d}`;
    const path = draw("path", { class: "edge", d: `M${a},${b} C${bend} ${c},${d}`, "stroke-width": edge.exchange ? 2 : 1.3 });
    const text = draw("text", {
      class: "edge-label", x: this.upright ? (a + c) / 2 + 8 : (a + c) / 2, y: (b + d) / 2 + (this.upright ? 4 : -7),
      "text-anchor": this.upright ? "start" : "middle",
    }, cut(label(edge), 16));
    return [path, text];
  }

  #node(operator, [x, y]) {
    const text = (cls, dx, dy, anchor) => draw("text", { class: cls, x: dx, y: dy, "text-anchor": anchor });
    const parts = {
      about: text("soft", 14, 41), rate: text("rate", 14, 60), busy: text("soft", 14, 83), held: text("soft", WIDTH - 14, 60, "end"),
      lag: text("soft", WIDTH - 14, 83, "end"), warn: text("warn", WIDTH - 14, 41, "end"),
      bar: draw("rect", { class: "busy", x: 14, y: HEIGHT - 18, height: 5, rx: 2.5, width: 0 }),
      waits: draw("rect", { class: "waits", x: 14, y: HEIGHT - 18, height: 5, rx: 2.5, width: 0 }),
    };
    const select = () => this.onSelect(operator.name);
    const node = draw("g", {
      class: "node", transform: `translate(${x},${y})`, tabindex: 0, role: "button", "aria-expanded": "false",
      "data-operator": operator.name, onclick: select,
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(); } },
    },
    draw("title", {}, `${operator.description}\n${operator.where}`),
    draw("rect", { class: "card", width: WIDTH, height: HEIGHT, rx: 11 }),
    draw("text", { class: "title", x: 14, y: 24 }, cut(operator.name, 22)),
    draw("rect", { class: "track", x: 14, y: HEIGHT - 18, width: WIDTH - 28, height: 5, rx: 2.5 }),
    ...Object.values(parts));
    this.nodes.set(operator.name, { node, parts, operator });
    return node;
  }

  update(picture) {
    for (const [name, { node, parts, operator }] of this.nodes) {
      const figures = picture?.operators[name];
      if (!figures) continue;
      const { role } = operator;
      const taken = figures.rows_in_per_s, given = role === "sink" ? figures.rows_out_per_s : figures.rows_out_per_s;
      const rates = role === "source" ? rate(given) : role === "sink" ? rate(taken) : Math.abs(taken - given) < .005 * taken
        ? rate(taken) : `${rate(taken).replace(/\/s$/, "")} → ${rate(given)}`;
      say(parts.rate, cut(rates, 24));
      say(parts.busy, `${percent(figures.busy)} busy${figures.waiting > 0.05 ? ` · ${percent(figures.waiting)} waits` : ""}`);
      say(parts.held, figures.state_bytes && rates.length < 18 ? bytes(figures.state_bytes) : "");
      say(parts.lag, figures.latency_p99_us != null ? `p99 ${span(figures.latency_p99_us)}`
        : figures.waiting > 0.05 ? "" : figures.lag_us != null && operator.timed ? `lag ${span(figures.lag_us)}` : "");
      const set = [figures.late ? `${count(figures.late)} late` : "", figures.dead_letters ? `${count(figures.dead_letters)} dead` : ""];
      const warning = cut(set.filter(Boolean).join(", "), 22);
      say(parts.warn, warning);
      say(parts.about, cut(operator.description, 28 - (warning ? warning.length + 2 : 0)));
      parts.bar.setAttribute("width", Math.max(0, (figures.busy ?? 0) * (WIDTH - 28)));
      parts.waits.setAttribute("width", Math.max(0, (figures.waiting ?? 0) * (WIDTH - 28)));
      const limits = picture.limit?.operator === name;
      node.classList.toggle("limits", limits);
      node.setAttribute("aria-label", [
        name, limits ? "limits the run" : "", rates, `${percent(figures.busy)} busy`,
        figures.state_bytes ? `${bytes(figures.state_bytes)} of state` : "", ...set,
      ].filter(Boolean).join(", "));
    }
  }

  select(name) {
    for (const [other, { node }] of this.nodes) node.setAttribute("aria-expanded", String(other === name));
  }
}
