// Where it looks: what every head attends to.

import { drawCells, h, percent, tape } from "./elements.js";
import { range } from "./model.js";
import { attention, layers } from "./seen.js";

const MAP = 72; // pixels of a small map

export const attentionPanel = {
  id: "attention",
  fits: () => true,
  open(app, root) {
    let chosen = null; // [layer, head]; null is the mean of all
    let cell = null; // the cell of the large map that is pointed at: [query, key]
    const count = layers(app.reader.model);
    const large = h("canvas", {
      class: "map large", tabindex: "0", role: "img", "aria-describedby": "map-value",
      onPointermove: (event) => point(event), onPointerdown: (event) => point(event), onKeydown: (event) => walk(event),
    });
    const marker = h("i", { class: "marker", "aria-hidden": "true" });
    const value = h("p", { id: "map-value", class: "value", role: "status" });
    const maps = h("div", { class: "maps" });
    const text = h("div", {});
    const detail = h("div", { class: "detail", hidden: true });
    let patterns = [];

    const from = () => app.reader.watchedFrom;
    const size = () => app.reader.tokens.length - from();
    const weight = (layer, head, query, key) => patterns[query]?.[layer]?.[head]?.[key - app.reader.start] ?? 0;

    function read() {
      patterns = [];
      for (let i = from(); i < app.reader.tokens.length; i++) {
        const seen = app.reader.seen[i];
        if (seen?.notes) patterns[i] = attention(seen, app.reader.model);
      }
    }

    /** How much the chosen head, or all heads on average, attend from one position to another. */
    function attended(query, key) {
      if (chosen) return weight(...chosen, query, key);
      const all = patterns[query]?.flat() ?? [];
      return all.reduce((sum, weights) => sum + (weights[key - app.reader.start] ?? 0), 0) / Math.max(1, all.length);
    }

    function draw(canvas, at) {
      const start = from();
      drawCells(canvas, size(), (i, j) => (j > i ? 0 : at(start + i, start + j)), app.colours.sea);
    }

    function drawMaps() {
      if (maps.childElementCount === 0) {
        maps.style.gridTemplateColumns = `auto repeat(${patterns.at(-1)?.[0]?.length ?? 1}, minmax(0, ${MAP}px))`;
        for (const layer of range(count)) {
          maps.append(h("span", { class: "hint" }, app.t("layer", { layer: layer + 1 })));
          (patterns.at(-1)?.[layer] ?? []).forEach((_, head) => maps.append(small(layer, head)));
        }
      }
      for (const canvas of maps.querySelectorAll("canvas")) {
        const { layer, head } = canvas.dataset;
        draw(canvas, (query, key) => weight(layer, head, query, key));
        canvas.parentElement.setAttribute("aria-pressed", String(chosen?.[0] === Number(layer) && chosen?.[1] === Number(head)));
      }
    }

    function small(layer, head) {
      const canvas = h("canvas", { class: "map", "data-layer": String(layer), "data-head": String(head), "aria-hidden": "true" });
      const name = app.t("headName", { layer: layer + 1, head: head + 1 });
      const choose = () => {
        chosen = chosen?.[0] === layer && chosen?.[1] === head ? null : [layer, head];
        cell = null;
        update();
      };
      return h("button", { type: "button", class: "mini", "aria-label": name, title: name, onClick: choose }, canvas);
    }

    function drawText() {
      const position = Math.max(app.position, from());
      text.replaceChildren(
        tape(app, {
          shade: (i) => (i > position ? 0 : attended(position, i)),
          hint: (i) => (i > position ? "" : percent(attended(position, i))),
        }),
      );
    }

    function drawLarge() {
      detail.hidden = !chosen;
      if (!chosen) return;
      draw(large, attended);
      large.setAttribute("aria-label", app.t("mapLabel", { layer: chosen[0] + 1, head: chosen[1] + 1 }));
      const [query, key] = cell ?? [size() - 1, strongest(size() - 1)];
      const place = (i) => `${(100 * i) / size()}%`;
      Object.assign(marker.style, { left: place(key), top: place(query), width: place(1), height: place(1) });
      const name = (i) => app.label(app.reader.tokens[from() + i]);
      value.replaceChildren(
        app.t("attends"), " ", h("code", {}, name(query)), " → ", h("code", {}, name(key)), ` ${percent(attended(from() + query, from() + key))}`,
      );
    }

    function strongest(query) {
      return range(query + 1).reduce((best, key) => (attended(from() + query, from() + key) > attended(from() + query, from() + best) ? key : best), 0);
    }

    function point(event) {
      const place = large.getBoundingClientRect();
      const at = (offset, whole) => Math.max(0, Math.min(size() - 1, Math.floor((offset / whole) * size())));
      cell = [at(event.clientY - place.top, place.height), at(event.clientX - place.left, place.width)];
      drawLarge();
    }

    function walk(event) {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      const now = cell ?? [size() - 1, strongest(size() - 1)];
      cell = now.map((each, i) => Math.max(0, Math.min(size() - 1, each + move[i])));
      drawLarge();
    }

    function update() {
      if (!count) {
        root.replaceChildren(h("p", {}, app.t(app.about.kind === "bigram" ? "looksBigram" : "looksNgrams")), lastTokens(app));
        return;
      }
      read();
      drawMaps();
      drawText();
      drawLarge();
    }

    if (count) {
      detail.append(h("div", { class: "large-map" }, large, marker), value, h("p", { class: "hint" }, app.t("mapHint")));
      root.replaceChildren(h("p", {}, app.t(app.about.kind === "average" ? "looksAverage" : "looks")), text, h("div", { class: "looking" }, maps, detail));
    }
    update();
    return { update };
  },
};

/** The tokens that a model without attention reads: the last, or as many as the n-grams know. */
function lastTokens(app) {
  const shares = app.here?.notes?.get("ngrams.shares") ?? [{ length: 1, share: 1 }];
  const read = (i) => shares.filter(({ length }) => length > app.position - i).reduce((sum, { share }) => sum + share, 0);
  return tape(app, { shade: (i) => (i > app.position ? 0 : read(i)), hint: (i) => (i > app.position ? "" : percent(read(i))) });
}
