// Numbers, times and sizes for people. Nothing here touches the page.

const units = (value, steps) => {
  for (const [limit, unit] of steps) {
    if (Math.abs(value) >= limit) {
      const scaled = value / limit;
      return `${scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0)} ${unit}`;
    }
  }
  return null;
};

export const count = (value) => value == null ? "–" : Math.round(value).toLocaleString("en");

export const short = (value) => {
  if (value == null) return "–";
  if (Math.abs(value) < 1e4) return count(value);
  return units(value, [[1e9, "G"], [1e6, "M"], [1e3, "k"]]);
};

export const rate = (value) => value == null ? "–" : value > 0 && value < 10 ? `${value.toFixed(1)}/s` : `${short(value)}/s`;

export const bytes = (value) =>
  value == null ? "–" : units(value, [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) ?? `${Math.round(value)} B`;

export const percent = (share) => share == null ? "–" : `${Math.round(share * 100)} %`;

export const span = (us) => {
  if (us == null) return "–";
  if (us < 1e3) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1e3).toFixed(us < 1e4 ? 1 : 0)} ms`;
  const seconds = us / 1e6;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const [d, h, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d) return `${d} d ${h} h`;
  return h ? `${h} h ${m} min` : `${m} min ${Math.floor(seconds % 60)} s`;
};

const two = (n) => String(n).padStart(2, "0");

export const clock = (us) => {
  const t = new Date(us / 1000);
  return `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
};

export const moment = (us) => {
  const t = new Date(us / 1000);
  const today = new Date().toDateString() === t.toDateString();
  return today ? clock(us) : `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${clock(us)}`;
};

export const eventTime = (us) =>
  us == null ? "–" : us === "end" ? "end of the input" : new Date(us / 1000).toISOString().replace("T", " ").replace(/\.?0*Z$/, "");
