// Tables and lists beside the graph.

import { $, make, say, table } from "./dom.js";
import { bytes, clock, count, eventTime, moment, percent, rate, span } from "./format.js";

const td = (text, attributes = {}) => make("td", attributes, text);
const number = (text) => td(text, { class: "number" });
const empty = (text) => make("p", { class: "empty" }, text);
const processName = (name) => name === "caller" ? "supervisor" : name;

export const numbers = (element, picture) => {
  const cells = [
    ["Events read", rate(picture.events_per_s), `${count(picture.events_in)} in all`],
    ["Rows written", rate(picture.rows_per_s), `${count(picture.rows_out)} in all`],
    ["Latency p50", span(picture.latency_p50_us), "from source to sink"],
    ["Latency p99", span(picture.latency_p99_us), "99 of 100 rows are faster"],
    ["Watermark lag", span(picture.lag_us), eventTime(picture.watermark_us)],
    ["State", bytes(picture.state_bytes), `${count(picture.keys)} keys`],
    ["Late", count(picture.late), "events", picture.late],
    ["Dead letters", count(picture.dead_letters), "records", picture.dead_letters],
  ];
  if (element.children.length !== cells.length) {
    element.replaceChildren(...cells.map(([name]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, make("span"), make("small")))));
  }
  cells.forEach(([, value, more, warn], i) => {
    const cell = element.children[i];
    cell.classList.toggle("warn", Boolean(warn));
    say(cell.querySelector("span"), value);
    say(cell.querySelector("small"), more);
  });
};

export const limit = (element, picture) => {
  const sentence = picture.limit?.sentence ?? "";
  element.classList.toggle("limited", Boolean(picture.limit?.operator));
  if (element.dataset.sentence === sentence) return;
  element.dataset.sentence = sentence;
  element.replaceChildren(...sentence.split("`").map((part, i) => i % 2 ? make("code", {}, part) : part));
};

export const heat = (element, graph, picture) => {
  const processes = Object.entries(picture.processes).filter(([, p]) => p.busy != null || Object.keys(p.operators).length);
  const operators = graph.operators.filter((o) => processes.some(([, p]) => o.name in p.operators));
  if (!processes.length) { element.replaceChildren(empty("Nothing is known yet.")); return; }
  const cell = (share) => {
    const made = td(share == null ? "" : percent(share));
    if (share != null) made.style.background = `rgba(var(--heat), ${(0.05 + 0.6 * Math.min(1, share)).toFixed(3)})`;
    return made;
  };
  element.replaceChildren(table(
    ["", ...operators.map((o) => ({ text: o.name, class: "column" })), { text: "busy", class: "column" }, { text: "CPU", class: "column" }, { text: "memory", class: "column" }],
    processes.map(([name, p]) => make("tr", {},
      make("th", { scope: "row" }, processName(name), p.waiting ? " · waits for credit" : ""),
      operators.map((o) => cell(p.operators[o.name])), cell(p.busy), td(percent(p.cpu)), td(bytes(p.rss_bytes)))),
    { class: "heat" }));
};

const HOT = 0.01; // a key with less than that of all events is none to be looked at

export const keyBars = (keys) => make("div", { class: "bars" }, keys.slice(0, 6).flatMap(({ key, share }) => {
  const filled = make("span");
  filled.style.width = `${Math.min(100, share * 100)}%`;
  return [make("span", { class: "key", title: key }, key || "(empty)"), make("span", { class: "track" }, filled),
    make("span", { class: "share" }, `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`)];
}));

export const hotKeys = (element, graph, picture) => {
  const hot = (o) => (picture.operators[o.name]?.hot_keys ?? []).filter(({ share }) => share >= HOT);
  const parts = graph.operators.filter((o) => hot(o).length).flatMap((o) => [make("h3", {}, o.name), keyBars(hot(o))]);
  element.replaceChildren(...(parts.length ? parts : [empty("No operator gets its rows by key, or no key stands out.")]));
};

export const partitions = (element, holder, picture) => {
  const held = picture.holder;
  say(holder, held ? `${held.name} of ${held.source} holds the watermark back${held.behind_us ? `, ${span(held.behind_us)} behind the next` : ""}${
    held.since_us ? `; it last moved at ${moment(held.since_us)}` : ""}.` : "");
  const rows = picture.partitions.slice(0, 100).map((p) => make("tr", { class: held && p.name === held.name && p.source === held.source ? "marked" : null },
    td(`${p.source} · ${p.name}`), td(p.ended ? "ended" : p.idle ? "idle" : p.quiet_us > 1e6 ? `quiet for ${span(p.quiet_us)}` : "active"),
    number(eventTime(p.watermark_us)), number(span(p.lag_us)), number(bytes(p.bytes))));
  element.replaceChildren(rows.length
    ? table(["partition", "", { text: "watermark", number: true }, { text: "lag", number: true }, { text: "read", number: true }], rows)
    : empty("There are none yet."));
};

export const checkpoints = (element, made) => {
  const rows = [...made].reverse().slice(0, 30).map((c) => {
    const sizes = Object.values(c.operators), sum = (place) => sizes.reduce((all, size) => all + size[place], 0);
    const known = sizes.every((size) => size.length > 2); // what was written is not known of runs of an earlier release
    const place = known ? 2 : 1;
    const largest = Object.entries(c.operators).filter(([, size]) => size[place]).sort((a, b) => b[1][place] - a[1][place]).slice(0, 3);
    return make("tr", {}, td(String(c.epoch)), td(moment(c.begun_us)), number(span(c.duration_us)),
      number(known ? bytes(sum(2)) : "–"), number(bytes(sum(1))),
      td(largest.map(([name, size]) => `${name} ${bytes(size[place])}`).join(", ")));
  });
  element.replaceChildren(rows.length
    ? table(["", "begun", { text: "took", number: true }, { text: "written", number: true }, { text: "whole state", number: true }, "most written by"], rows)
    : empty("None was made in this run."));
};

export const happenings = (element, all) => {
  const key = `${all.length} ${all.at(-1)?.time_us}`; // of very many the oldest go
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...[...all].reverse().map((h) => make("li", {},
    make("time", {}, moment(h.time_us)), make("span", { class: h.kind }, h.text),
    h.detail ? make("pre", { tabindex: 0 }, h.detail) : null)));
};

export const letters = (element, found, none, replay) => {
  const rows = found.map(({ file, fields }) => {
    const { operator, reason, record, record_base64, ...rest } = fields;
    const what = record ?? record_base64 ?? JSON.stringify(rest);
    const more = record == null ? {} : rest;
    const where = [more.origin, more.line && `line ${more.line}`].filter(Boolean).join(", ");
    const again = rest.replayed ? ` (replayed ${rest.replayed === 1 ? "once" : `${rest.replayed} times`} before)` : "";
    const cells = [td(operator ?? file.replace(/\.jsonl$/, "")), td((reason ?? "") + again), td(String(what), { class: "record" }), td(where)];
    if (replay) cells.push(make("td", { class: "act" }, rest.id ? make("button", { type: "button", title: "Give it again to the operator that had refused it", onclick: (event) => replay([rest.id], event.target) }, "Replay") : null));
    return make("tr", {}, ...cells);
  });
  const columns = ["operator", "reason", "record", "from", ...(replay ? [""] : [])];
  element.replaceChildren(rows.length ? table(columns, rows) : empty(none));
};

export const lateEvents = (element, found, none) => {
  const rows = found.map((e) => make("tr", {}, td(e.operator), number(span(e.late_by_us)), number(eventTime(e.event_time_us)),
    number(e.watermark_us == null && e.event_time_us != null ? "end of the input" : eventTime(e.watermark_us)),
    td(Object.entries(e.row).map(([name, value]) => `${name}: ${value}`).join(", "), { class: "record" })));
  element.replaceChildren(rows.length
    ? table(["operator", { text: "late by", number: true }, { text: "event time", number: true }, { text: "watermark then", number: true }, "event"], rows)
    : empty(none));
};

export const detail = (element, operator, picture, sample, close) => {
  const figures = picture.operators[operator.name];
  const hot = figures.hot_keys.filter(({ share }) => share >= HOT);
  const facts = [
    ["rows in", `${count(figures.rows_in)} · ${rate(figures.rows_in_per_s)}`], ["rows out", `${count(figures.rows_out)} · ${rate(figures.rows_out_per_s)}`],
    ["busy", percent(figures.busy)], ["waits for credit", percent(figures.waiting)],
    ["keys", count(figures.keys)], ["state", bytes(figures.state_bytes)],
    ["watermark", eventTime(figures.watermark_us)], ["lag", span(figures.lag_us)],
    ["late", count(figures.late)], ["dead letters", count(figures.dead_letters)],
    ["latency p50", span(figures.latency_p50_us)], ["latency p99", span(figures.latency_p99_us)],
  ].filter(([, value]) => !value.startsWith("–"));
  const columns = sample?.columns ?? [];
  element.replaceChildren(...[
    make("button", { class: "close", type: "button", onclick: close }, "Close"),
    make("h3", {}, operator.name),
    make("p", { class: "where" }, `${operator.description} — ${operator.where}, runs in: ${operator.places.join(", ")}`),
    make("dl", { class: "facts" }, facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    hot.length ? make("h3", {}, "Hot keys") : null, hot.length ? keyBars(hot) : null,
    make("h3", {}, "Last rows"),
    sample?.rows?.length
      ? make("div", { class: "scroll" }, table(columns, sample.rows.map((row) => make("tr", {}, row.map((value) => td(value, { class: "record" }))))))
      : empty(sample?.said ?? "Waiting for rows…"),
  ].filter(Boolean));
};
