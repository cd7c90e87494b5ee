// Who said so: what each part of the model proposes, and how much it weighs.

import { h, bar, percent, topBars } from "./elements.js";
import { votes } from "./seen.js";
import { visible } from "./tokenizer.js";

export const votesPanel = {
  id: "votes",
  fits: (app) => Boolean(app.about.ngrams || app.about.mixer),
  open(app, root) {
    const update = () => {
      const seen = app.here;
      if (!seen?.notes) return;
      const found = votes(seen);
      root.replaceChildren(
        app.about.ngrams ? h("p", {}, app.t(app.about.joined ? "votesJoined" : "votesNgrams")) : "",
        app.about.mixer ? h("p", {}, app.t("votesMixer")) : "",
        h("div", { class: "voters" }, found.map((vote) => voter(vote, app))),
        found[0].shares ? byLength(found[0].shares, app) : "",
      );
    };
    update();
    return { update };
  },
};

/** One proposer: its name, its weight, its reasons, and its distribution. */
function voter(vote, app) {
  const nothing = vote.weight === 0 || !vote.p.some((value) => value > 0);
  return h(
    "div",
    { class: "voter" },
    h("h3", {}, app.t(`vote.${vote.name}`)),
    h("p", { class: "weight" }, bar(Math.abs(vote.weight), "horn"), " ", vote.name === "mixer" ? app.t("moved", { share: percent(vote.weight) }) : app.t("weight", { weight: vote.weight.toFixed(2) })),
    h("p", { class: "hint" }, remark(vote, app)),
    nothing ? h("p", { class: "hint" }, app.t("silent")) : topBars(vote.p, 6, app, vote.name === "network" ? "horn" : "sea"),
  );
}

/** Why a proposer says what it says. */
function remark(vote, app) {
  if (vote.matched === undefined) return app.t(`remark.${vote.name}`);
  if (!vote.matched) return app.t("remark.unmatched");
  const tokens = app.readTokens.slice(Math.max(0, app.position + 1 - vote.matched), app.position + 1);
  const context = visible(app.tokenizer.decode(tokens));
  const count = vote.count === null ? null : app.count(vote.count);
  const key = vote.name === "cache" ? "remark.cache" : count === null ? "remark.matched" : "remark.counted";
  return app.t(key, { context, count });
}

/** How far back n-grams look: how much of the distribution each length of context decided. */
function byLength(shares, app) {
  const rows = shares.map(({ length, share }) => {
    const tokens = app.readTokens.slice(app.position + 1 - length, app.position + 1);
    const context = length ? visible(app.tokenizer.decode(tokens)) : app.t("noContext");
    return h("li", {}, h("b", { class: "context" }, context), bar(share, "sea"), h("span", { class: "number" }, percent(share)));
  });
  return h("div", {}, h("h3", {}, app.t("byLength")), h("ol", { class: "bars long" }, rows.reverse()));
}
