// Lines over time, small and alike, with one cursor through all of them.

import { $, draw, make, say } from "./dom.js";
import { bytes, clock, percent, rate, span } from "./format.js";

const W = 400, H = 92, TOP = 8, BOTTOM = 16;

const niceTop = (value) => {
  if (!(value > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((m) => m * step).find((m) => m >= value * 0.999);
};

class Chart {
  constructor({ title, format, lines, floor, bars, joined }) {
    Object.assign(this, { title, format, lines, floor, bars, joined });
    this.value = make("span");
    this.svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img" });
    this.legend = make("div", { class: "legend" });
    this.top = make("span");
    this.element = make("div", { class: "chart" }, make("h3", {}, title, this.value), this.svg, this.legend);
  }

  draw(points, [from, until], marks, cursor, checkpoints) {
    const x = (us) => ((us - from) / Math.max(1, until - from)) * W;
    const lines = this.bars ? [] : this.lines(points);
    const values = this.bars ? checkpoints.map((c) => c.duration_us) : lines.flatMap((line) => line.values.filter((v) => v != null));
    const top = Math.max(niceTop(Math.max(0, ...values)), this.floor ?? 0);
    const y = (value) => H - BOTTOM - (value / top) * (H - TOP - BOTTOM);
    const parts = [
      draw("line", { class: "axis", x1: 0, x2: W, y1: H - BOTTOM, y2: H - BOTTOM }),
      draw("line", { class: "axis", x1: 0, x2: W, y1: TOP, y2: TOP, "stroke-dasharray": "2 4" }),
    ];
    for (const mark of marks) if (mark >= from) parts.push(draw("line", { class: "mark", x1: x(mark), x2: x(mark), y1: TOP, y2: H - BOTTOM }));
    lines.forEach((line, index) => {
      let d = "", pen = false;
      line.values.forEach((value, i) => {
        // Rows that are written now and then have an age only then: those moments are joined.
        if (value == null) { pen &&= this.joined; return; }
        const alone = !pen && line.values[i + 1] == null;
        d += `${pen ? "L" : "M"}${x(points[i].time_us).toFixed(1)},${y(value).toFixed(1)}${alone ? "h0" : ""}`;
        pen = true;
      });
      parts.push(draw("path", { class: `line s${index % 6 + 1}`, d }));
    });
    if (this.bars) for (const c of checkpoints) {
      const height = Math.max(1.5, H - BOTTOM - y(c.duration_us));
      if (c.begun_us >= from) parts.push(draw("rect", { class: "s1", x: x(c.begun_us), y: H - BOTTOM - height, width: 3, height }));
    }
    if (cursor != null) parts.push(draw("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: TOP, y2: H - BOTTOM }));
    this.svg.replaceChildren(...parts);
    const shown = cursor == null ? points.length - 1 : points.findLastIndex((p) => p.time_us <= cursor);
    const now = this.bars
      ? checkpoints.filter((c) => cursor == null || c.begun_us <= cursor).at(-1)?.duration_us
      : lines.length === 1 ? lines[0].values[shown] : undefined;
    say(this.value, `${now == null ? "" : `${this.format(now)} · `}up to ${this.format(top)}`);
    this.svg.setAttribute("aria-label", `${this.title}: ${now == null ? "" : `${this.format(now)} now, `}at most ${this.format(Math.max(0, ...values))}`);
    const names = lines.length > 1 ? lines.map((line, i) => [line.name, line.values[shown], i]) : [];
    this.legend.replaceChildren(...names.map(([name, value, i]) =>
      make("span", {}, make("i", { class: `s${i % 6 + 1}` }), `${name}${value == null ? "" : ` ${this.format(value)}`}`)));
  }
}

const one = (field, name = "") => (points) => [{ name, values: points.map((p) => p[field]) }];
const several = (...fields) => (points) => fields.map(([field, name]) => ({ name, values: points.map((p) => p[field]) }));
const processes = (field) => (points) => {
  const names = [...new Set(points.flatMap((p) => Object.keys(p.processes)))];
  return names.map((name) => ({ name: name === "caller" ? "supervisor" : name, values: points.map((p) => p.processes[name]?.[field]) }))
    .filter((line) => line.values.some((value) => value != null));
};

export class Charts {
  constructor(element) {
    this.charts = [
      new Chart({ title: "Events read", format: rate, lines: one("events_per_s") }),
      new Chart({ title: "Rows written", format: rate, lines: one("rows_per_s") }),
      new Chart({ title: "Latency, source to sink", format: span, lines: several(["latency_p50_us", "p50"], ["latency_p99_us", "p99"]), joined: true }),
      new Chart({ title: "Watermark lag", format: span, lines: one("lag_us") }),
      new Chart({ title: "State", format: bytes, lines: one("state_bytes") }),
      new Chart({ title: "Busy", format: percent, lines: processes("busy"), floor: 1 }),
      new Chart({ title: "CPU", format: percent, lines: processes("cpu"), floor: 1 }),
      new Chart({ title: "Memory", format: bytes, lines: processes("rss_bytes") }),
      new Chart({ title: "Checkpoints, how long", format: span, bars: true }),
    ];
    element.replaceChildren(...this.charts.map((chart) => chart.element));
  }

  draw({ points, happenings, checkpoints }, cursor) {
    if (points.length < 2) return;
    const range = [points[0].time_us, points.at(-1).time_us];
    const marks = happenings.filter((h) => h.kind === "lost" || h.kind === "failed").map((h) => h.time_us);
    for (const chart of this.charts) chart.draw(points, range, marks, cursor, checkpoints);
  }
}
