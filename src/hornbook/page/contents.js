// What is in this file.

import { h } from "./elements.js";

export const contentsPanel = {
  id: "contents",
  fits: () => true,
  open(app, root) {
    const { about } = app;
    const { kept } = about;
    const facts = [
      ["fact.model", app.t(about.kind === "ngram" ? "model.ngram" : about.joined ? "model.joined" : "model.network", { kind: about.kind, count: app.count(about.parameters) })],
      ["fact.tokenizer", app.t(`tokenizer.${about.tokenizer.kind}`, { count: app.count(app.tokenizer.size) })],
      ["fact.context", app.t("contextTokens", { count: app.count(about.context) })],
      about.parameters ? ["fact.weights", app.t(`precision.${kept.precision}`)] : null,
      kept.n_grams ? ["fact.ngrams", app.t(kept.n_grams < kept.all_n_grams ? "ngramsPruned" : "ngramsAll", { count: app.count(kept.n_grams), all: app.count(kept.all_n_grams) })] : null,
      kept.network_only ? ["fact.ngrams", app.t("ngramsLeftOut")] : null,
      about.mixer ? ["fact.mixer", app.t("mixerKept", { count: app.count(about.mixer.tokens) })] : null,
      kept.mixer_left_out ? ["fact.mixer", app.t("mixerLeftOut")] : null,
      kept.loss === null ? null : ["fact.loss", app.t(kept.exact ? "lossExact" : "lossChanged", { loss: kept.loss.toFixed(4), full: kept.full_loss.toFixed(4), change: `${kept.loss >= kept.full_loss ? "+" : "−"}${Math.abs(kept.loss - kept.full_loss).toFixed(4)}`, count: app.count(kept.measured_tokens) })],
      ["fact.size", app.t("megabytes", { size: ((about.served ?? document.documentElement.outerHTML.length) / 1e6).toFixed(1) })],
      ["fact.version", `hornbook ${about.version}`],
    ].filter(Boolean);
    root.replaceChildren(
      h("table", { class: "facts" }, h("tbody", {}, facts.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, app.t(name)), h("td", {}, value))))),
      kept.n_grams || about.piece ? h("p", { class: "alert" }, app.t(`${about.mixer ? "holdsAllText" : kept.n_grams ? "holdsText" : "holdsPiece"}${about.served ? ".served" : ""}`)) : "",
      h("p", { class: "hint" }, app.t(about.served ? "sendsNothing.served" : "sendsNothing")),
    );
    return { update: () => {} };
  },
};
