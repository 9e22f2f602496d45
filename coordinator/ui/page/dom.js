// Making elements. Text is always text: nothing that comes from a run is ever taken for markup.

export const $ = (id) => document.getElementById(id);

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
};

export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Change text only where it differs, so that nothing is read out or repainted for nothing. */
export const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };

export const table = (heads, rows, options = {}) =>
  make("table", { class: options.class },
    options.caption ? make("caption", { class: "note" }, options.caption) : null,
    make("thead", {}, make("tr", {}, heads.map((head) =>
      make("th", { scope: "col", class: head.number ? "number" : head.class, title: head.class ? head.text : null }, head.text ?? head)))),
    make("tbody", {}, rows));
