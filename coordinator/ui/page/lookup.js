// What an operator holds: asked for by key, and by a moment where it has windows.

import * as api from "./api.js";
import { $, make, table } from "./dom.js";

const MOST = 50;

const shown = (value) => value == null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value);

const found = ({ said, records }) => {
  const names = [...new Set(records.flatMap(Object.keys))];
  return [make("p", { class: "note" }, said), names.length ? table(names, records.map((record) =>
    make("tr", {}, names.map((name) => make("td", { class: "record" }, shown(record[name])))))) : null].filter(Boolean);
};

let asked = 0;
const look = async (event) => {
  event.preventDefault();
  const mine = ++asked;
  const key = $("lookup-key").value, at = $("lookup-at").value;
  const query = { do: "query", operator: $("lookup-operator").value, most: MOST, format: "json" };
  if (key) query.keys = [key];
  if (at) query.at_us = Date.parse(`${at}Z`) * 1000;
  const answer = await api.command(query).then(found).catch((error) => [make("p", { class: "empty" }, error.message)]);
  if (mine === asked) $("lookup-found").replaceChildren(...answer); // answers may overtake one another
};

/** Show the form where the run can be asked and something is kept by key. */
export const offer = (graph, commands) => {
  const keyed = graph.operators.filter((o) => o.keyed);
  $("state-section").hidden = !keyed.length || !commands.includes("query");
  $("lookup-operator").replaceChildren(...keyed.map((o) => make("option", { value: o.name }, o.name)));
};

/** The operator that the reader looks at is the one to be asked. */
export const choose = (name) => {
  if ([...$("lookup-operator").options].some((o) => o.value === name)) $("lookup-operator").value = name;
};

$("lookup").addEventListener("submit", look);
