// The page: what is shown, where it comes from, and what the reader does with it.

import * as api from "./api.js";
import { Charts } from "./charts.js";
import { $, make, say } from "./dom.js";
import { moment, span } from "./format.js";
import { Graph } from "./graph.js";
import * as lookup from "./lookup.js";
import * as panels from "./panels.js";

const POINTS = 240, LIVE_EVERY_US = 1e6, RELOAD_MS = 30_000, LISTS_MS = 5_000, ROWS_MS = 1_500;

const state = {
  run: null, graph: null, live: null, shown: null, past: null, selected: null, sample: null, over: false,
  timeline: { points: [], happenings: [], checkpoints: [] }, letters: "dead-letters",
};

const graph = new Graph($("graph"), (name) => select(state.selected === name ? null : name));
const charts = new Charts($("charts"));

// --- showing ---

const show = () => {
  const picture = state.shown;
  if (!picture || !state.graph) return;
  const ended = ["done", "stopped", "failed"].includes(picture.state);
  const named = state.over && state.past == null && !ended ? "gone" : picture.paused ? "paused" : picture.state;
  $("state").dataset.state = named;
  say($("state"), named === "gone" ? "no longer running" : named);
  const workers = Object.keys(picture.processes).filter((name) => name.startsWith("worker-")).length;
  say($("meta"), [
    picture.seconds ? `for ${span(picture.seconds * 1e6)}` : "",
    workers === 1 ? "1 worker" : `${workers} workers`,
    `attempt ${picture.attempt}`, picture.checkpoint ? `checkpoint ${picture.checkpoint}` : "",
  ].filter(Boolean).join(" · "));
  document.title = `${state.graph.flow} · Millstream`;
  panels.limit($("limit"), picture);
  panels.numbers($("numbers"), picture);
  graph.update(picture);
  panels.heat($("heat"), state.graph, picture);
  panels.hotKeys($("keys"), state.graph, picture);
  panels.partitions($("partitions"), $("holder"), picture);
  showDetail();
};

const showDetail = () => {
  const operator = state.graph?.operators.find((o) => o.name === state.selected);
  $("detail").hidden = !operator;
  if (operator && state.shown && !$("detail").contains(document.activeElement?.closest("pre"))) {
    const focused = $("detail").contains(document.activeElement);
    const sample = state.past == null ? state.sample : { said: "Rows are seen live only." };
    panels.detail($("detail"), operator, state.shown, sample, () => select(null));
    if (focused) $("detail").querySelector("button").focus();
  }
};

const showCharts = () => charts.draw(state.timeline, state.past);

const showMoment = () => {
  document.body.classList.toggle("past", state.past != null);
  $("live").setAttribute("aria-pressed", String(state.past == null));
  const last = state.timeline.points.at(-1)?.time_us;
  const text = state.past == null ? (state.over ? "the end" : "now") : `${moment(state.past)} · ${span(Math.max(0, last - state.past))} earlier`;
  say($("moment"), text);
  $("slider").setAttribute("aria-valuetext", text);
};

// --- selecting ---

const select = (name) => {
  const before = state.selected;
  state.selected = name;
  state.sample = null;
  graph.select(name);
  showDetail();
  if (name) { loadRows(); lookup.choose(name); $("detail").scrollIntoView({ block: "nearest" }); }
  else if (before) graph.nodes.get(before)?.node.focus();
};

const loadRows = async () => {
  const name = state.selected;
  if (!name || state.past != null || state.over) return;
  try {
    const sample = await api.rows(name);
    if (state.selected === name) { state.sample = sample; showDetail(); }
  } catch (error) {
    state.sample = { said: error.message };
  }
};

// --- the past ---

let asked = 0;
const goTo = async (timeUs) => {
  state.past = timeUs;
  showMoment();
  showCharts();
  const mine = ++asked;
  const picture = await api.at(state.run, timeUs).catch(() => null);
  if (mine === asked && picture && state.past != null) { state.shown = picture; show(); }
};

const goLive = () => {
  asked++;
  state.past = null;
  state.shown = state.live;
  $("slider").value = 1000;
  showMoment();
  show();
  showCharts();
};

let pending = 0;
$("slider").addEventListener("input", () => {
  const points = state.timeline.points;
  if (points.length < 2) return;
  const share = Number($("slider").value) / 1000;
  if (share >= 1) { goLive(); return; }
  const timeUs = points[0].time_us + share * (points.at(-1).time_us - points[0].time_us);
  clearTimeout(pending);
  pending = setTimeout(() => goTo(timeUs), 60);
});
$("live").addEventListener("click", goLive);

// --- loading ---

const pointOf = (picture) => ({
  ...picture,
  processes: Object.fromEntries(Object.entries(picture.processes).map(([name, p]) => [name, { cpu: p.cpu, rss_bytes: p.rss_bytes, busy: p.busy }])),
});

const loadTimeline = async () => {
  const loaded = await api.timeline(state.run, POINTS);
  state.timeline = loaded;
  showCharts();
  showMoment();
};

const loadLists = async () => {
  const kind = state.letters;
  const [happened, made, letters] = await Promise.all([
    api.happenings(state.run), api.checkpoints(state.run), api.letters(kind),
  ]);
  state.timeline.happenings = happened;
  panels.happenings($("happenings"), happened);
  panels.checkpoints($("checkpoints"), made);
  if (kind !== state.letters) return; // another tab was chosen meanwhile
  if (kind === "late") panels.lateEvents($("letters"), letters, "No event has come too late.");
  else panels.letters($("letters"), letters, "There are no dead letters.", state.replays ? replay : null);
  $("replay-all").hidden = kind === "late" || !state.replays || !letters.length;
};

const take = (picture) => {
  if (!picture) return;
  state.live = picture;
  const points = state.timeline.points;
  if (!points.length || picture.time_us - points.at(-1).time_us >= LIVE_EVERY_US) {
    points.push(pointOf(picture));
    if (points.length > 2 * POINTS) points.splice(0, points.length - 2 * POINTS);
    showCharts();
  }
  if (state.past == null) { state.shown = picture; show(); }
};

const quietly = (load) => () => { if (!document.hidden && !state.over) load().catch(() => {}); };

// --- commands ---

const COMMANDS = [
  ["checkpoint", "Checkpoint", "Make a checkpoint now"], ["savepoint", "Savepoint", "Make a checkpoint now, and keep it"],
  ["pause", "Pause", "Read nothing more until resumed"], ["resume", "Resume", "Read again"],
  ["scale", "Scale", "Go on with another number of workers"],
  ["stop", "Stop", "Make a last checkpoint and end the run"],
];

const showCommands = (known) => {
  $("commands").replaceChildren(...COMMANDS.filter(([name]) => known.includes(name)).map(([name, text, title]) =>
    make("button", { type: "button", title, class: name === "stop" ? "danger" : null, "data-command": name, onclick: (event) => obey(name, text, event.target) }, text)));
};

const tell = (text, error = false) => {
  $("said").hidden = !text;
  $("said").classList.toggle("error", error);
  say($("said"), text);
};

const obey = async (name, text, button) => {
  if (name === "stop" && !confirm("Stop the run? A last checkpoint is made, from which it can go on.")) return;
  const more = {};
  if (name === "scale") {
    const workers = Number(prompt("How many workers?"));
    if (!Number.isInteger(workers) || workers < 1) return;
    more.workers = workers;
  }
  button.disabled = true;
  tell(`${text}…`);
  try {
    tell((await api.command({ do: name, ...more })).said);
    loadLists().catch(() => {});
  } catch (error) {
    tell(error.message, true);
  } finally {
    button.disabled = false;
  }
};

/** Gives dead letters, or all of them, again to who had refused them; says before how many they are. */
const replay = async (ids, button) => {
  const choice = { do: "replay", ...(ids ? { letters: ids } : {}) };
  button.disabled = true;
  try {
    const would = await api.command({ ...choice, dry: true });
    if (!confirm(`${would.said}. Their events are late where windows have closed. Go on?`)) return;
    tell("Replay…");
    tell((await api.command(choice)).said);
    loadLists().catch(() => {});
  } catch (error) {
    tell(error.message, true);
  } finally {
    button.disabled = false;
  }
};
$("replay-all").addEventListener("click", (event) => replay(null, event.target));

// --- tabs ---

const tabs = [["tab-dead", "dead-letters"], ["tab-late", "late"]];
const choose = (chosen) => {
  state.letters = tabs[chosen][1];
  tabs.forEach(([id], i) => {
    $(id).setAttribute("aria-selected", String(i === chosen));
    $(id).tabIndex = i === chosen ? 0 : -1;
  });
  loadLists().catch(() => {});
};
tabs.forEach(([id], i) => {
  $(id).addEventListener("click", () => choose(i));
  $(id).addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") { choose(1 - i); $(tabs[1 - i][0]).focus(); }
  });
});

// --- beginning ---

const begin = async () => {
  const run = await api.run();
  say($("version"), `Millstream ${run.version}`);
  if (!run.graph) { say($("meta"), "Nothing has run here yet."); return; }
  state.run = run.run;
  state.graph = run.graph;
  state.replays = run.live && run.commands.includes("replay");
  say($("flow"), run.graph.flow);
  graph.show(run.graph);
  showCommands(run.live ? run.commands : []);
  lookup.offer(run.graph, run.live ? run.commands : []);
  if (run.run != null) {
    await Promise.all([loadTimeline(), loadLists()]);
  }
  if (!run.live) { over(); return; }
  api.watch({
    picture: take,
    ended: (happened) => {
      state.timeline.happenings = happened;
      panels.happenings($("happenings"), happened);
      over();
    },
    lost: (closed) => { if (closed || !state.over) { tell("The run does not answer; trying again…", true); } },
  }).addEventListener("open", () => tell(""));
  setInterval(quietly(loadTimeline), RELOAD_MS);
  setInterval(quietly(loadLists), LISTS_MS);
  setInterval(quietly(loadRows), ROWS_MS);
};

const over = () => {
  state.over = true;
  state.replays = false;
  showCommands([]);
  $("state-section").hidden = true;
  const last = state.timeline.points.at(-1);
  if (!state.live && last) {
    api.at(state.run, last.time_us).then((picture) => { state.live = state.shown = picture; showMoment(); show(); });
  } else {
    tell("The run has ended. What is shown is what this page knows of it.");
    show();
  }
  showMoment();
};

let upright = null;
new ResizeObserver(() => {
  const now = $("graph").clientWidth < 620;
  if (state.graph && upright !== null && now !== upright) { graph.show(state.graph); graph.select(state.selected); show(); }
  upright = now;
}).observe($("graph"));

begin().catch((error) => tell(error.message, true));
