// What it would have said earlier: the logit lens, the residual stream, and each part's share.

import { h, bar, percent, tape } from "./elements.js";
import { softmax } from "./model.js";
import { attribution, highest, lens, residuals } from "./seen.js";

const COLUMNS = 10;

export const earlierPanel = {
  id: "earlier",
  fits: () => true,
  open(app, root) {
    const update = () => {
      const seen = app.here;
      if (!seen?.notes) return;
      root.replaceChildren(tape(app, { shade: () => 0 }), ...lensTable(app), ...growth(app, seen), ...shares(app, seen));
    };
    update();
    return { update };
  },
};

/** After each layer the best guess at the last few positions; deeper is surer. */
function lensTable(app) {
  const { model, seen } = app.reader;
  const positions = [];
  for (let i = Math.max(app.reader.watchedFrom, app.position - COLUMNS + 1); i <= app.position; i++) if (seen[i].notes) positions.push(i);
  const streams = positions.map((i) => residuals(seen[i], model));
  if (!streams.length || streams[0].length < 2) return [h("p", {}, app.t("noLayers"))];
  const rows = streams[0].map((_, level) => {
    const cells = streams.map((stream) => {
      const logits = lens(stream[level], model);
      if (!logits) return h("td", {});
      const p = softmax(logits);
      const best = highest(p);
      const cell = h("td", { title: app.ranked(p).slice(0, 3).map((token) => `${app.label(token)} ${percent(p[token])}`).join("  ") }, h("b", {}, app.label(best)), h("small", {}, percent(p[best])));
      cell.style.backgroundColor = `rgba(${app.colours.sea}, ${0.75 * p[best] ** 1.5})`;
      return cell;
    });
    return h("tr", {}, h("th", { scope: "row" }, level ? app.t("afterLayer", { layer: level }) : app.t("afterEmbedding")), cells);
  });
  const came = positions.map((i) => h("th", { scope: "col" }, app.label(app.reader.tokens[i])));
  const next = positions.map((i) => h("td", {}, i + 1 < app.reader.tokens.length ? app.label(app.reader.tokens[i + 1]) : "?"));
  return [
    h("p", {}, app.t("lens")),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": app.t("lensTable") },
      h("table", { class: "lens" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, app.t("afterToken")), came)), h("tbody", {}, rows, h("tr", { class: "came" }, h("th", { scope: "row" }, app.t("came")), next))),
    ),
  ];
}

/** The length of the residual stream after each layer. */
function growth(app, seen) {
  const streams = residuals(seen, app.reader.model);
  if (streams.length < 2 || !app.reader.model.anatomy) return [];
  const lengths = streams.map((x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0)));
  const most = Math.max(...lengths);
  const rows = lengths.map((length, level) =>
    h("li", {}, h("b", { class: "context" }, level ? app.t("afterLayer", { layer: level }) : app.t("afterEmbedding")), bar(length / most, "grey"), h("span", { class: "number" }, length.toFixed(1))),
  );
  return [h("h3", {}, app.t("growth")), h("p", { class: "hint" }, app.t("growthHint")), h("ol", { class: "bars long" }, rows)];
}

/** What each part adds to the logit of the token that came, or of the most likely one. */
function shares(app, seen) {
  const came = app.position + 1 < app.reader.tokens.length;
  const token = came ? app.reader.tokens[app.position + 1] : highest(seen.logits);
  const found = attribution(seen, app.reader.model, token);
  const most = Math.max(...found.map(([, share]) => Math.abs(share)), 1e-9);
  const total = found.reduce((sum, [, share]) => sum + share, 0);
  const rows = found.map(([name, share]) => {
    const track = h("span", { class: "track two", "aria-hidden": "true" }, h("i", { class: share > 0 ? "heat" : "sea" }));
    const fill = track.firstChild;
    fill.style.width = `${(50 * Math.abs(share)) / most}%`;
    fill.style[share > 0 ? "left" : "right"] = "50%";
    return h("li", {}, h("b", { class: "context" }, partName(name, app)), track, h("span", { class: "number" }, signed(share)));
  });
  return [
    h("h3", {}, app.t("shares"), " ", h("code", {}, app.label(token))),
    h("p", { class: "hint" }, app.t(came ? "sharesCame" : "sharesBest", { total: signed(total) })),
    h("ol", { class: "bars long" }, rows),
  ];
}

function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

function partName(name, app) {
  const [, layer, what, , head] = name.split(".");
  if (layer === undefined) return app.t(`part.${name}`);
  const place = app.t("layer", { layer: Number(layer) + 1 });
  if (head !== undefined) return `${place}, ${app.t("head", { head: Number(head) + 1 })}`;
  return `${place}, ${what === "mlp" ? "MLP" : app.t("part.bias")}`;
}
