// Small pieces that the panels are built from. Text is always set as text, never as HTML.

/** An element with properties, attributes and listeners (`onClick`), and children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function percent(p) {
  const value = 100 * p;
  return `${value >= 99.95 ? "100" : value >= 9.95 ? value.toFixed(0) : value.toFixed(1)}%`;
}

/** A bar whose length is a share of its track. */
export function bar(share, style = "") {
  const fill = h("i", { class: style });
  fill.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return h("span", { class: "track", "aria-hidden": "true" }, fill);
}

/** The most likely tokens of a distribution as bars. */
export function topBars(p, count, app, style = "") {
  const order = app.ranked(p).slice(0, count);
  const most = Math.max(p[order[0]], 1e-9);
  return h(
    "ol",
    { class: "bars" },
    order.map((token) =>
      h("li", {}, h("b", {}, app.label(token)), bar(p[token] / most, style), h("span", { class: "number" }, percent(p[token]))),
    ),
  );
}

/**
 * The watched tokens as buttons in a row, of which one is chosen. `shade(i)` from 0 to 1 colours
 * the token at position i, `hint(i)` is read out with it.
 */
export function tape(app, { shade, hint = () => "" }) {
  const { reader } = app;
  const buttons = [];
  for (let i = reader.watchedFrom; i < reader.tokens.length; i++) {
    const chosen = i === app.position;
    const button = h(
      "button",
      {
        type: "button",
        class: `token${chosen ? " chosen" : ""}`,
        "aria-pressed": String(chosen),
        tabindex: chosen ? "0" : "-1",
        title: hint(i) || null,
        onClick: () => app.choose(i),
      },
      app.label(reader.tokens[i]),
    );
    const depth = shade(i);
    if (depth > 0.004) button.style.backgroundColor = `rgba(${app.colours.sea}, ${0.08 + 0.72 * Math.min(1, depth)})`;
    buttons.push(button);
  }
  const group = h("div", { class: "tape", role: "group", "aria-label": app.t("tape") }, buttons);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    app.choose(Math.min(reader.tokens.length - 1, Math.max(reader.watchedFrom, app.position + step)));
    group.parentElement?.querySelector(".tape .chosen")?.focus();
  });
  return group;
}

/** Draw a square table of numbers from 0 to 1, a pixel each; deeper is more. */
export function drawCells(canvas, size, value, colour) {
  const context = canvas.getContext("2d");
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const image = context.createImageData(size, size);
  const [red, green, blue] = colour.split(",").map(Number);
  for (let i = 0, at = 0; i < size; i++) {
    for (let j = 0; j < size; j++, at += 4) {
      image.data[at] = red;
      image.data[at + 1] = green;
      image.data[at + 2] = blue;
      image.data[at + 3] = 255 * Math.sqrt(Math.min(1, value(i, j)));
    }
  }
  context.putImageData(image, 0, 0);
}

/** A vector as a strip: one colour for what is positive, another for what is negative. */
export function strip(x, app) {
  const most = x.reduce((high, value) => Math.max(high, Math.abs(value)), 1e-9);
  const canvas = h("canvas", { class: "strip", width: String(Math.max(x.length, 1)), height: "1", role: "img", "aria-label": app.t("strip", { count: x.length }) });
  const context = canvas.getContext("2d");
  x.forEach((value, i) => {
    const colour = value > 0 ? app.colours.heat : app.colours.sea;
    context.fillStyle = `rgba(${colour}, ${Math.abs(value) / most})`;
    context.fillRect(i, 0, 1, 1);
  });
  return canvas;
}

/** The first numbers of a vector, as numbers. */
export function numbers(x, count = 8) {
  const shown = Array.from(x.slice(0, count), (value) => value.toFixed(2).replace("-", "−"));
  return h("code", { class: "numbers" }, `[${shown.join(", ")}${x.length > count ? ", …" : ""}]`);
}
