// From logits to the distribution that the next token is drawn from, and a token drawn from it.

/**
 * In this order: temperature, top-k, min-p, top-p; the same as `hornbook sample`.
 * Temperature 0 gives the most likely token probability 1.
 */
export function distribution(logits, { temperature, topK, minP, topP }) {
  const size = logits.length;
  let best = 0;
  for (let i = 1; i < size; i++) if (logits[i] > logits[best]) best = i;
  const p = new Float64Array(size);
  if (temperature === 0) {
    p[best] = 1;
    return p;
  }
  for (let i = 0; i < size; i++) p[i] = Math.exp((logits[i] - logits[best]) / temperature);
  normalise(p);
  const order = topK > 0 || topP < 1 ? ranked(p) : null;
  if (topK > 0) for (const token of order.slice(topK)) p[token] = 0;
  if (minP > 0) {
    const least = minP * p[best];
    for (let i = 0; i < size; i++) if (p[i] < least) p[i] = 0;
  }
  if (topP < 1) {
    const enough = topP * p.reduce((sum, value) => sum + value, 0);
    let before = 0;
    for (const token of order) {
      const own = p[token];
      if (before >= enough) p[token] = 0;
      before += own;
    }
  }
  return normalise(p);
}

function normalise(p) {
  const total = p.reduce((sum, value) => sum + value, 0);
  for (let i = 0; i < p.length; i++) p[i] /= total;
  return p;
}

/** Tokens by falling probability. */
export function ranked(p) {
  return Array.from(p, (_, token) => token).sort((a, b) => p[b] - p[a] || a - b);
}

/** A token drawn from a distribution, by a number from 0 to 1. */
export function draw(p, random) {
  let before = 0, last = 0;
  for (let token = 0; token < p.length; token++) {
    if (p[token] === 0) continue;
    before += p[token];
    last = token;
    if (random < before) return token;
  }
  return last;
}

/**
 * A number from 0 to 1 that depends on the seed and the position alone: a text is repeated by its
 * seed, however it was stopped and continued. The mixing is that of MurmurHash3.
 */
export function randomAt(seed, position) {
  const high = mix(mix(seed ^ 0x9e3779b9) + position);
  const low = mix(high ^ 0x85ebca6b ^ position);
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

function mix(value) {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
