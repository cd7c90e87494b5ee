// What if: parts of the model are switched off, and everything follows at once.

import { h, percent, topBars } from "./elements.js";
import { nothingOff, range, softmax } from "./model.js";
import { Reader, leaveTime } from "./reader.js";
import { highest, layers } from "./seen.js";

const CONTINUED = 60;
const READ = 400; // tokens of the text on which the loss is measured

export const whatifPanel = {
  id: "whatif",
  fits: (app) => Boolean(layers(app.reader.model) || app.about.joined || app.about.mixer),
  open(app, root) {
    const plain = app.newModel();
    const changed = app.newModel();
    const parts = h("div", { class: "parts" });
    const result = h("div", { class: "results busy", "aria-live": "polite" });
    const piece = app.tokenizer.encode(app.about.piece).slice(0, READ);
    let working = 0;
    let before = null;

    function switches() {
      const { off } = app;
      const toggle = (name, isOff, change) =>
        h(
          "button",
          {
            type: "button", class: "switch", role: "switch", "aria-checked": String(!isOff),
            onClick: async () => {
              const next = { ...off, heads: new Set(off.heads), mlps: new Set(off.mlps) };
              change(next);
              await app.setOff(next);
            },
          },
          name,
        );
      const flip = (set, key) => (set.has(key) ? set.delete(key) : set.add(key));
      const blocks = app.reader.model.anatomy?.blocks ?? range(layers(app.reader.model)).map(() => ({ heads: [0] }));
      const rows = blocks.map((block, layer) =>
        h(
          "div",
          { class: "switches" },
          h("span", { class: "hint" }, app.t("layer", { layer: layer + 1 })),
          block.heads.map((_, head) => toggle(app.t(app.about.kind === "average" ? "theMean" : "head", { head: head + 1 }), off.heads.has(`${layer}.${head}`), (next) => flip(next.heads, `${layer}.${head}`))),
          block.mlp ? toggle("MLP", off.mlps.has(layer), (next) => flip(next.mlps, layer)) : null,
        ),
      );
      const flags = [...(app.about.joined ? ["network", "ngrams", "cache", "gate"] : []), ...(app.about.mixer ? ["mixer"] : [])].map((name) => toggle(app.t(`vote.${name}`), off[name], (next) => (next[name] = !next[name])));
      const learned = app.reader.model.anatomy ? [toggle(app.t("learnedWeights"), off.mean, (next) => (next.mean = !next.mean))] : [];
      parts.replaceChildren(
        ...rows,
        h("div", { class: "switches" }, h("span", { class: "hint" }, app.t("whole")), flags, learned),
        h("p", {}, h("button", { type: "button", disabled: app.isWhole, onClick: () => app.setOff(nothingOff()) }, app.t("allOn"))),
      );
    }

    async function compare() {
      const mine = ++working;
      const stop = () => mine !== working || !root.isConnected;
      const pause = leaveTime(stop);
      changed.off = app.off;
      result.classList.add("busy");
      const tokens = app.readTokens.slice(0, app.position + 1);
      const key = tokens.join();
      if (before?.key !== key) before = { key, ...(await measure(plain, tokens, pause)) };
      if (stop() || !before.p) {
        before = null;
        return;
      }
      const after = app.isWhole ? before : await measure(changed, tokens, pause);
      if (stop() || !after.p) return;
      result.classList.remove("busy");
      result.replaceChildren(column(app.t("asTrained"), before, null), app.isWhole ? h("p", { class: "hint" }, app.t("switchOff")) : column(app.t("withoutParts"), after, before));
    }

    /** Distribution, continuation and loss of a model. */
    async function measure(model, tokens, pause) {
      const nats = piece.length > 1 ? await app.losses(model, piece, pause) : [];
      const reader = new Reader(model, app.about.context);
      const logits = await reader.read(tokens, pause);
      if (!nats || !logits) return {};
      const p = softmax(Float64Array.from(logits));
      const written = [];
      while (written.length < CONTINUED) {
        if (await pause()) return {};
        written.push(highest(reader.logits));
        reader.next(written.at(-1));
      }
      const loss = nats.length ? nats.reduce((sum, each) => sum + each, 0) / nats.length : null;
      return { p, loss, text: app.tokenizer.decode(written) };
    }

    function column(title, { p, loss, text }, other) {
      const difference = other && loss !== null ? ` (${loss >= other.loss ? "+" : "−"}${Math.abs(loss - other.loss).toFixed(3)})` : "";
      return h(
        "div",
        { class: "result" },
        h("h3", {}, title),
        loss === null ? null : h("p", {}, h("span", { class: "figure" }, loss.toFixed(3)), ` ${app.t("natsToken")}${difference}`),
        topBars(p, 5, app, "horn"),
        h("p", { class: "hint" }, app.t("goesOn")),
        h("div", { class: "text", dir: "auto" }, text),
      );
    }

    const update = (what) => {
      if (what === "off" || !what) switches();
      compare();
    };
    root.replaceChildren(h("p", {}, app.t("whatif")), parts, result, piece.length > 1 ? h("p", { class: "hint" }, app.t("whatifLoss", { count: piece.length - 1 })) : "");
    update();
    return { update, isSlow: true };
  },
};
