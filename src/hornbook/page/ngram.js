// Counting: which tokens followed the last few in the training text, and how often.
//
// A context gives each token that followed it a probability, and leaves the rest to the context
// that is one token shorter:
//
//     p(token | context) = share(context, token) + backoff(context) * p(token | shorter context)

import { nothingOff } from "./model.js";

/** The n-grams of one length: those of a context lie next to each other, sorted by their last token. */
class Level {
  constructor(counts, tokens, shares, occurrences) {
    // `occurrences` says how often each stood in the training text, where that is known.
    Object.assign(this, { tokens, shares, occurrences });
    this.first = new Uint32Array(counts.length + 1);
    this.backoff = new Float32Array(counts.length);
    for (let context = 0; context < counts.length; context++) {
      const start = this.first[context], end = start + counts[context];
      this.first[context + 1] = end;
      let given = 0;
      for (let i = start; i < end; i++) given += shares[i];
      // Rounded shares may sum to a little more than 1.
      if (given > 1) for (let i = start; i < end; i++) shares[i] /= given;
      this.backoff[context] = Math.max(0, 1 - given);
    }
  }

  /** The number of context + token among these n-grams, or -1. */
  find(context, token) {
    let low = this.first[context], high = this.first[context + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tokens[middle] < token) low = middle + 1;
      else high = middle;
    }
    return low < this.first[context + 1] && this.tokens[low] === token ? low : -1;
  }
}

/** The tables of a page, which its models share. */
export function readTables(arrays, { order }) {
  return Array.from({ length: order }, (_, n) => {
    const [counts, tokens, shares] = ["counts", "tokens", "shares"].map((each) => arrays.get(`ngrams.${n}.${each}`).data);
    const occurrences = arrays.get(`ngrams.${n}.occurrences`)?.data;
    // A byte stands for a power of e: 0 for 1, 255 for a millionth.
    const exact = shares instanceof Uint8Array ? decoded(shares) : shares;
    return new Level(counts, tokens, exact, occurrences);
  });
}

function decoded(codes) {
  const meaning = Float32Array.from({ length: 256 }, (_, code) => Math.exp(-code * SHARE_STEP));
  const shares = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) shares[i] = meaning[codes[i]];
  return shares;
}

export class NGrams {
  constructor(levels, { vocabulary, order, shortest, rest_is_uniform }) {
    Object.assign(this, { levels, vocabulary, order, shortest, restIsUniform: rest_is_uniform });
    this.off = nothingOff();
    this.states = [];
  }

  get length() {
    return this.states.length;
  }

  /** The numbers of the last 0, 1, 2 ... tokens as contexts; -1 for one that was not counted. */
  advance(token) {
    const before = this.states.at(-1) ?? [0];
    const longer = before
      .slice(0, this.order - 1)
      .map((context, n) => (context < 0 ? -1 : this.levels[n].find(context, token)));
    this.states.push([0, ...longer]);
    return this.states.at(-1);
  }

  /** The distribution after a state, and how much of it each length of context gave. */
  probabilities(state) {
    const uniform = 1 / this.vocabulary;
    let p = new Float32Array(this.vocabulary).fill(uniform);
    const weights = [];
    state.forEach((context, n) => {
      if (this.restIsUniform) p.fill(uniform);
      if (context < 0) return;
      const { first, tokens, shares, backoff } = this.levels[n];
      p = p.map((value) => value * backoff[context]);
      for (let i = first[context]; i < first[context + 1]; i++) p[tokens[i]] += shares[i];
      weights.push({ length: n, backoff: backoff[context] });
    });
    return { p, shares: sharesByLength(weights) };
  }

  /** The backoff weight of each length, 1 where the context was not counted. */
  backoffs(state) {
    return Array.from({ length: this.order }, (_, n) => {
      const context = state[n] ?? -1;
      return context < 0 ? 1 : this.levels[n].backoff[context];
    });
  }

  /** How many tokens of context the tables know, and how often these stood in the training text. */
  matched(state) {
    const length = state.reduce((longest, context, n) => (context < 0 ? longest : n), 0);
    const count = length ? (this.levels[length - 1].occurrences?.[state[length]] ?? null) : null;
    return { matched: length, count };
  }

  step(token, note) {
    const state = this.advance(token);
    const { p, shares } = this.probabilities(state);
    note?.("votes", [{ name: "ngrams", p, weight: 1, shares, ...this.matched(state) }]);
    note?.("ngrams.shares", shares);
    return p.map((value) => Math.log(value));
  }

  truncate(length) {
    this.states.length = Math.min(length, this.states.length);
  }
}

const SHARE_STEP = Math.log(1e6) / 255;

/** How much of the distribution each length of context decided, shortest first. */
function sharesByLength(weights) {
  let left = 1;
  const shares = [];
  for (const { length, backoff } of [...weights].reverse()) {
    shares.unshift({ length, share: left * (1 - backoff) });
    left *= backoff;
  }
  return shares;
}
