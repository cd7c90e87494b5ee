// How surprised is it: a text, each token coloured by its loss.

import { h } from "./elements.js";
import { leaveTime } from "./reader.js";
import { codePoint, visible } from "./tokenizer.js";

// The lower edges of the shades, as shares of the loss of the uniform guess: those of the report card.
const SHADES = [1 / 3, 1 / 2, 5 / 6, 7 / 6, 3 / 2];
const BITS = 1 / Math.log(2);

export const surprisePanel = {
  id: "surprise",
  fits: () => true,
  open(app, root) {
    const model = app.newModel();
    const uniform = Math.log(app.tokenizer.size);
    const edges = SHADES.map((share) => Math.max(0.5, Math.round(2 * share * uniform * BITS) / 2));
    const box = h("textarea", { id: "paste", rows: "4", spellcheck: "false", dir: "auto", "aria-label": app.t("paste"), onInput: () => measure() });
    const figures = h("div", { "aria-live": "polite" });
    const coloured = h("div", { class: "text", dir: "auto", tabindex: "0", role: "region", "aria-label": app.t("coloured") });
    const hover = h("p", { class: "value", role: "status" });
    let working = 0;

    async function measure() {
      const mine = ++working;
      model.off = app.off;
      const unknown = app.tokenizer.unknown(box.value);
      const tokens = [app.about.start, ...app.tokenizer.encode(box.value)];
      const nats = await app.losses(model, tokens, leaveTime(() => mine !== working || !root.isConnected));
      if (!nats) return;
      show(tokens.slice(1), nats, unknown);
    }

    function show(tokens, nats, unknown) {
      const pieces = app.tokenizer.pieces(tokens);
      const spans = pieces.map((piece, i) => {
        const shade = edges.filter((edge) => nats[i] * BITS >= edge).length;
        const text = shade ? piece.replaceAll("\n", "↵\n") : piece;
        return h("span", { class: `s${shade}`, "data-i": String(i), title: `${app.label(tokens[i])}  ${(nats[i] * BITS).toFixed(2)} ${app.t("bits")}` }, text);
      });
      coloured.replaceChildren(...spans);
      const characters = Math.max(1, Array.from(pieces.join("")).length);
      const sum = (values) => values.reduce((total, each) => total + each, 0) / characters;
      const { frequencies } = app.about;
      const rows = [
        ["thisModel", sum(nats), "horn"],
        frequencies.length ? ["frequencies", sum(tokens.map((token) => -Math.log(frequencies[token]))), "sea"] : null,
        ["uniform", sum(tokens.map(() => uniform)), "grey"],
      ].filter(Boolean);
      const most = Math.max(...rows.map(([, loss]) => loss), 1e-9);
      figures.replaceChildren(
        unknown.length ? h("p", { class: "alert" }, app.t("leftOut", { named: unknown.slice(0, 6).map((each) => `${visible(each)} (${codePoint(each)})`).join(", ") })) : "",
        tokens.length ? h("ol", { class: "bars long" }, rows.map(([name, loss, style]) => {
          const fill = h("i", { class: style });
          fill.style.width = `${(100 * loss) / most}%`;
          return h("li", {}, h("b", { class: "context" }, app.t(name)), h("span", { class: "track", "aria-hidden": "true" }, fill), h("span", { class: "number" }, `${loss.toFixed(3)}`));
        })) : "",
        tokens.length ? h("p", { class: "hint" }, app.t("natsChar", { bits: (rows[0][1] * BITS).toFixed(3), characters: app.count(characters) })) : "",
      );
    }

    coloured.addEventListener("pointerover", (event) => {
      if (event.target.title) hover.textContent = event.target.title;
    });
    const legend = h("p", { class: "shades" }, [0, ...edges].map((edge, i) => h("span", { class: `s${i}` }, i === 0 ? app.t("under", { edge: edges[0] }) : i === edges.length ? app.t("over", { edge }) : String(edge))));
    box.value = app.surprising ?? (app.about.piece || app.text);
    box.addEventListener("input", () => (app.surprising = box.value));
    root.replaceChildren(h("p", {}, app.t("surprise")), box, figures, legend, coloured, hover);
    measure();
    return { update: (what) => what === "off" && measure() };
  },
};
