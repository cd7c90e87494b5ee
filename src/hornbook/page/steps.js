// The lecture's shapes: the way of one token from its number to the next one's probability, one
// step a screen, with the numbers of this model.

import { h, numbers, percent, strip, tape, topBars } from "./elements.js";
import { range, softmax } from "./model.js";

const SHOWN = 8; // positions in a table of scores

export const stepsPanel = {
  id: "steps",
  fits: () => true,
  open(app, root) {
    app.screen ??= 0;
    let layer = 0, head = 0;
    const stage = h("div", { class: "stage", "aria-live": "polite" });
    const bar = h("div", { class: "buttons" });

    function update() {
      const seen = app.here;
      if (!seen?.notes) return;
      const screens = screensOf(app, seen, layer, head);
      app.screen = Math.max(0, Math.min(app.screen, screens.length - 1));
      const { title, shape, body, hasLayer, hasHead } = screens[app.screen];
      stage.replaceChildren(
        h("p", { class: "eyebrow" }, app.t("stepOf", { step: app.screen + 1, steps: screens.length })),
        h("h3", { class: "step" }, app.t(`step.${title}`), " ", h("code", {}, shape)),
        h("p", {}, app.t(`why.${title}`)),
        ...body,
      );
      const go = (by) => () => {
        app.screen += by;
        update();
        bar.querySelectorAll("button")[by > 0 ? 1 : 0]?.focus();
      };
      const choice = (name, count, now, set) =>
        count > 1
          ? h("label", {}, h("span", {}, app.t(name)), (() => {
              const select = h("select", { onChange: () => { set(Number(select.value)); update(); } }, range(count).map((i) => h("option", { value: String(i) }, String(i + 1))));
              select.value = String(now);
              return select;
            })())
          : null;
      const blocks = app.reader.model.anatomy?.blocks ?? [];
      bar.replaceChildren(
        h("button", { type: "button", disabled: app.screen === 0, onClick: go(-1) }, app.t("previous")),
        h("button", { type: "button", class: "primary", disabled: app.screen === screens.length - 1, onClick: go(1) }, app.t("following")),
        ...[hasLayer ? choice("layerChoice", blocks.length, layer, (value) => (layer = value)) : null, hasHead ? choice("headChoice", blocks[layer]?.heads.length ?? 1, head, (value) => (head = value)) : null].filter(Boolean),
      );
    }

    const text = h("div", {});
    const updateAll = () => {
      text.replaceChildren(tape(app, { shade: (i) => (i <= app.position ? 0.05 : 0) }));
      update();
    };
    root.replaceChildren(h("p", {}, app.t("steps")), text, stage, bar);
    updateAll();
    return { update: updateAll };
  },
};

/** The screens of a model: each has a title, a shape as the lecture writes it, and its numbers. */
function screensOf(app, seen, layer, head) {
  const { notes, logits } = seen;
  const { reader, about } = app;
  const T = app.position - reader.start + 1;
  const V = app.tokenizer.size;
  const get = (name) => notes.get(name);
  const at = (name) => get(`blocks.${layer}.${name}`);
  const screens = [];
  const add = (title, shape, body, options = {}) => screens.push({ title, shape, body: body.flat(), ...options });
  const vector = (x, label) => [h("p", { class: "vector" }, label ? h("span", {}, label) : null, numbers(x)), strip(x, app)];
  const first = Math.max(reader.start, app.position - SHOWN + 1);
  const recent = range(app.position - first + 1).map((i) => first + i);

  add("token", `(B,T) = (1, ${T})`, [
    h("table", { class: "cells" }, h("tr", {}, recent.map((i) => h("td", {}, app.label(reader.tokens[i])))), h("tr", {}, recent.map((i) => h("td", {}, String(reader.tokens[i]))))),
  ]);
  const embedded = get("hook_embed");
  if (about.kind === "bigram") add("table", `(B,T,C) = (1, ${T}, ${V})`, [vector(embedded)]);
  else if (embedded) {
    const C = embedded.length;
    add("embedding", `(B,T,C) = (1, ${T}, ${C})`, [vector(embedded, app.label(seen.token))]);
    if (get("hook_pos_embed")) add("position", `(T,C) = (${T}, ${C})`, [vector(get("hook_pos_embed")), vector(at("hook_resid_pre") ?? embedded, app.t("sum"))]);
    if (about.kind === "average") {
      add("average", `(B,T,C) = (1, ${T}, ${C})`, [weightRow(app, get("blocks.0.attn.hook_pattern")[0], recent), vector(get("blocks.0.attn.hook_z")[0])]);
      add("beside", `(B,T,2C) = (1, ${T}, ${2 * C})`, [vector(get("blocks.0.hook_resid_post"))]);
    } else {
      const both = { hasLayer: true, hasHead: true };
      const block = reader.model.anatomy.blocks[layer];
      const [q, k, v, z, scores, pattern] = ["q", "k", "v", "z", "attn_scores", "pattern"].map((name) => at(`attn.hook_${name}`)[head]);
      const D = q.length;
      if (block.norm1) add("norm", `(B,T,C) = (1, ${T}, ${C})`, [vector(at("hook_resid_pre"), app.t("stream")), vector(at("ln1.hook_normalized"), app.t("normalised"))], { hasLayer: true });
      add("qkv", `(B,T,D) = (1, ${T}, ${D})`, [vector(q, "q"), vector(k, "k"), vector(v, "v")], both);
      if (reader.model.anatomy.rotaryBase) screens.at(-1).body.push(h("p", { class: "hint" }, app.t("rotary")));
      add("scores", `q @ k.T / √${D}`, [scoreRow(app, scores, recent)], both);
      add("mask", `(B,T,T) = (1, ${T}, ${T})`, [maskTable(app, layer, head, recent)], both);
      add("softmax", `(B,T,T) = (1, ${T}, ${T})`, [weightRow(app, pattern, recent)], both);
      add("values", `(B,T,D) = (1, ${T}, ${D})`, [vector(z, "z")], both);
      add(block.output ? "projection" : "concat", `(B,T,C) = (1, ${T}, ${C})`, [vector(at("hook_attn_out"), app.t("added")), block.residual ? vector(at("hook_resid_mid"), app.t("stream")) : []], { hasLayer: true });
      if (block.mlp) add("mlp", `(B,T,C) = (1, ${T}, ${C})`, [vector(at("hook_mlp_out"), app.t("added")), vector(at("hook_resid_post"), app.t("stream"))], { hasLayer: true });
      if (reader.model.anatomy.finalNorm) add("finalNorm", `(B,T,C) = (1, ${T}, ${C})`, [vector(get("ln_final.hook_normalized"))]);
    }
  } else add("count", `n ≤ ${about.ngrams.order}`, [h("p", { class: "hint" }, app.t("countHint"))]);
  const joined = about.mixer ? logits.map((logit, i) => logit - get("mixer.logits")[i]) : logits;
  if (embedded && about.kind !== "bigram") {
    const own = about.joined ? joined.map((logit, i) => logit - get("ngrams.logits")[i]) : joined;
    add("logits", `(B,T,V) = (1, ${T}, ${V})`, [logitRow(app, own)]);
  }
  if (about.joined) add("join", `(B,T,V) = (1, ${T}, ${V})`, [logitRow(app, joined), h("p", {}, app.t("gateNow", { gate: get("votes").find(({ name }) => name === "gate").weight.toFixed(2) }))]);
  if (about.mixer) add("mix", `(B,T,V) = (1, ${T}, ${V})`, [logitRow(app, logits), h("p", {}, app.t("moved", { share: percent(get("votes").at(-1).weight) }))]);
  add("probabilities", `(B,T,V) = (1, ${T}, ${V})`, [topBars(softmax(Float64Array.from(logits)), 8, app, "horn")]);
  return screens;
}

function cellsOf(app, recent, value, shade) {
  return h(
    "table",
    { class: "cells" },
    h("tr", {}, recent.map((i) => h("th", { scope: "col" }, app.label(app.reader.tokens[i])))),
    h("tr", {}, recent.map((i) => {
      const cell = h("td", {}, value(i));
      cell.style.backgroundColor = `rgba(${app.colours.sea}, ${0.8 * shade(i)})`;
      return cell;
    })),
  );
}

function weightRow(app, weights, recent) {
  const at = (i) => weights[i - app.reader.start] ?? 0;
  return cellsOf(app, recent, (i) => percent(at(i)), at);
}

function scoreRow(app, scores, recent) {
  return cellsOf(app, recent, (i) => shownScore(scores[i - app.reader.start]), () => 0);
}

function shownScore(score) {
  return Number.isFinite(score) ? score.toFixed(1).replace("-", "−") : "−∞";
}

/** The scores of the last positions, with the future hidden. */
function maskTable(app, layer, head, recent) {
  const last = recent.slice(-6);
  const row = (query) => {
    const notes = app.reader.seen[query]?.notes;
    const scores = notes?.get(`blocks.${layer}.attn.hook_attn_scores`)[head];
    return h("tr", {}, h("th", { scope: "row" }, app.label(app.reader.tokens[query])), last.map((key) => h("td", { class: key > query ? "hidden-score" : null }, key > query ? "−∞" : shownScore(scores?.[key - app.reader.start]))));
  };
  return h("table", { class: "cells" }, h("tr", {}, h("td", {}), last.map((i) => h("th", { scope: "col" }, app.label(app.reader.tokens[i])))), last.map(row));
}

function logitRow(app, logits) {
  const order = app.ranked(logits).slice(0, SHOWN);
  return h("table", { class: "cells" }, h("tr", {}, order.map((token) => h("th", { scope: "col" }, app.label(token)))), h("tr", {}, order.map((token) => h("td", {}, shownScore(logits[token])))));
}
