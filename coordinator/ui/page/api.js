// What the page asks of the run: JSON over HTTP, and pictures as they come.

export class Failed extends Error {}

const json = async (path, options) => {
  const response = await fetch(`/api/v1/${path}`, { credentials: "same-origin", ...options });
  const text = await response.text();
  let body = null;
  try { body = JSON.parse(text); } catch { /* a plain sentence */ }
  if (!response.ok) throw new Failed(body?.answer?.said ?? body?.error ?? text.trim());
  return body;
};

export const run = () => json("run");
export const timeline = (run, points) => json(`timeline?run=${run}&points=${points}`);
export const at = (run, timeUs) => json(`at?run=${run}&time_us=${Math.round(timeUs)}`);
export const happenings = (run) => json(`happenings?run=${run}`);
export const checkpoints = (run) => json(`checkpoints?run=${run}`);
export const letters = (kind) => json(kind);
export const rows = (operator) => json(`operators/${encodeURIComponent(operator)}/rows`);

export const command = async (what) => (await json("commands", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: `${JSON.stringify({ version: 1, command: what })}\n`,
})).answer;

/** Calls back with every picture; tells when the run has ended, and when nobody answers. */
export const watch = ({ picture, ended, lost }) => {
  const events = new EventSource("/api/v1/events");
  events.addEventListener("picture", (event) => picture(JSON.parse(event.data)));
  events.addEventListener("end", (event) => { events.close(); ended(JSON.parse(event.data)); });
  events.addEventListener("error", () => lost(events.readyState === EventSource.CLOSED));
  return events;
};
