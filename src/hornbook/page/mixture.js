// A network and n-grams as one model.
//
//     logits = network + gate * log p
//
// where p comes from the n-grams of the training text and those of the text so far. The gate is one
// number a position, which the model learned to set by what it reads.

import { Around, multiply, softmax } from "./model.js";

const SMALLEST = 1e-20;

export class Mixture extends Around {
  constructor(network, ngrams, arrays) {
    super(network);
    const get = (name) => arrays.get(name);
    this.ngrams = ngrams;
    const strengths = Array.from(get("recent.log_strength").data, Math.exp);
    this.recent = new ContextCounts(strengths, ngrams.shortest);
    this.evidence = { weight: get("evidence.weight"), bias: get("evidence.bias") };
    this.trust = { weight: get("trust.weight"), bias: get("trust.bias") };
  }

  step(token, note) {
    let hidden = null;
    const own = this.network.step(token, (name, value) => {
      if (name === "ln_final.hook_normalized") hidden = value;
      note?.(name, value);
    });
    const state = this.ngrams.advance(token);
    const counted = this.ngrams.probabilities(state);
    const recalled = this.recent.step(token, counted.p, this.off.cache);
    const p = recalled.p;

    const backoffs = this.ngrams.backoffs(state);
    const features = Float32Array.from([
      ...hidden,
      ...backoffs,
      ...backoffs.map((each) => (each < 1 ? 1 : 0)),
      ...recalled.matches.map((each) => Math.log1p(each)),
    ]);
    const opened = multiply(this.evidence.weight, features, this.evidence.bias).map((x) => x / (1 + Math.exp(-x)));
    const learned = multiply(this.trust.weight, opened, this.trust.bias)[0];
    const gate = this.off.ngrams ? 0 : this.off.gate ? 1 : learned;
    if (this.off.network) own.fill(0);

    const given = p.map((each) => gate * Math.log(Math.max(each, SMALLEST)));
    note?.("votes", [
      { name: "network", p: softmax(own), weight: 1 },
      { name: "ngrams", p: counted.p, weight: recalled.left, ...this.ngrams.matched(state) },
      { name: "cache", p: recalled.own(), weight: 1 - recalled.left, ...recalled.matched },
      { name: "gate", p, weight: gate },
    ]);
    note?.("ngrams.logits", given);
    return own.map((logit, i) => logit + given[i]);
  }

  truncate(length) {
    for (const part of [this.network, this.ngrams, this.recent]) part.truncate(length);
  }
}

/**
 * N-grams of the text so far: a name that occurred will occur again. For each of a few lengths in
 * turn, p <- (count + strength * p) / (total + strength).
 */
class ContextCounts {
  constructor(strengths, shortest) {
    this.strengths = strengths;
    this.shortest = shortest;
    this.longest = shortest + strengths.length - 1;
    this.tokens = [];
    // By earlier position: how many tokens up to it equal those up to the last.
    this.lengths = [];
  }

  step(token, p, isOff) {
    const { tokens, lengths, strengths, shortest } = this;
    this.advance(token);
    const matches = strengths.map(() => 0);
    for (let i = 0; i + 1 < tokens.length && !isOff; i++) {
      for (let length = lengths[i]; length >= shortest; length--) matches[length - shortest] += 1;
    }
    // What one match of each length gives its successor, and what is left to the shorter lengths.
    const gives = [];
    let left = 1;
    for (let r = strengths.length - 1; r >= 0 && !isOff; r--) {
      gives[r] = left / (matches[r] + strengths[r]);
      left *= strengths[r] / (matches[r] + strengths[r]);
    }
    const mixed = p.map((value) => value * left);
    for (let i = 0; i + 1 < tokens.length && !isOff; i++) {
      for (let length = lengths[i]; length >= shortest; length--) mixed[tokens[i + 1]] += gives[length - shortest];
    }
    const longest = matches.filter(Boolean).length;
    return {
      p: mixed,
      matches,
      left,
      matched: { matched: longest ? shortest + longest - 1 : 0, count: longest ? matches[longest - 1] : 0 },
      own: () => mixed.map((value, i) => (left < 1 - 1e-6 ? Math.max(0, value - left * p[i]) / (1 - left) : 0)),
    };
  }

  advance(token) {
    const { tokens, lengths, longest } = this;
    for (let i = tokens.length - 1; i >= 0; i--) {
      lengths[i] = tokens[i] === token ? Math.min(longest, (i > 0 ? lengths[i - 1] : 0) + 1) : 0;
    }
    tokens.push(token);
  }

  truncate(length) {
    if (length >= this.tokens.length) return;
    const kept = this.tokens.slice(0, length);
    this.tokens.length = this.lengths.length = 0;
    for (const token of kept) this.advance(token);
  }
}
