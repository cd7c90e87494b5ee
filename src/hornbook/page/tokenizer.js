// Text to tokens and back: characters, bytes, or byte-pair encoding.

// Where byte-pair encoding cuts a text before it merges anything: GPT-2's words.
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** `vocabulary` has the characters in order of their tokens, or for bytes and BPE the bytes of each. */
export class Tokenizer {
  constructor({ kind, vocabulary, merges, newline }) {
    this.kind = kind;
    this.newline = newline;
    const encoder = new TextEncoder();
    this.bytes = vocabulary.map((each) => (kind === "char" ? encoder.encode(each) : Uint8Array.from(each)));
    this.size = this.bytes.length;
    this.characters = kind === "char" ? new Map(vocabulary.map((each, token) => [each, token])) : null;
    this.byByte = kind === "char" ? null : new Map(vocabulary.map((each, token) => [each.join(), token]));
    // A merge of two tokens: how early it was learned, and the token it makes.
    this.merges = new Map((merges ?? []).map(([a, b, made], rank) => [`${a},${b}`, { rank, made }]));
  }

  /** The characters of a text that have no token, each once. */
  unknown(text) {
    if (!this.characters) return [];
    return [...new Set(this.fitted(text))].filter((each) => !this.characters.has(each));
  }

  /** The tokens of a text; characters without one are left out. */
  encode(text) {
    const fitted = this.fitted(text);
    if (this.characters) {
      return Array.from(fitted, (each) => this.characters.get(each)).filter((token) => token !== undefined);
    }
    const words = this.merges.size ? (fitted.match(WORDS) ?? []) : [fitted];
    const encoder = new TextEncoder();
    return words.flatMap((word) => this.merged(Array.from(encoder.encode(word), (byte) => this.byByte.get(`${byte}`))));
  }

  /** The same text with the line ends and the Unicode form that the vocabulary has. */
  fitted(text) {
    const lines = this.newline === "\n" ? text : text.replaceAll("\n", this.newline);
    if (!this.characters) return lines;
    const known = (each) => Array.from(each).every((character) => this.characters.has(character));
    return [lines, lines.normalize("NFC"), lines.normalize("NFD")].find(known) ?? lines;
  }

  /** Join the pair whose merge was learned first, until no pair has a merge. */
  merged(tokens) {
    while (this.merges.size) {
      let best = null;
      for (let i = 0; i + 1 < tokens.length; i++) {
        const merge = this.merges.get(`${tokens[i]},${tokens[i + 1]}`);
        if (merge && (!best || merge.rank < best.rank)) best = { ...merge, at: i };
      }
      if (!best) break;
      tokens.splice(best.at, 2, best.made);
    }
    return tokens;
  }

  /** The text of each token; a character cut over several tokens comes with the last of them. */
  pieces(tokens) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return tokens.map((token) => decoder.decode(this.bytes[token], { stream: true }));
  }

  decode(tokens) {
    return this.pieces(tokens).join("");
  }

  /** A text as it is shown and edited: its lines end as a page's do. */
  shown(text) {
    return this.newline === "\r" ? text.replaceAll("\r", "\n") : text.replaceAll("\r", "");
  }

  /** One token as text; part of a character is U+FFFD. */
  text(token) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.bytes[token]);
  }

  /** A token as a reader sees it: signs for white space, and bytes that are no whole character. */
  label(token) {
    const bytes = this.bytes[token];
    const text = this.text(token);
    if (text.includes("\ufffd")) return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return visible(text);
  }
}

const SIGNS = { "\n": "↵", "\r": "␍", "\t": "⇥", " ": "␣" };

/** White space and control characters as signs. */
export function visible(text) {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp} ]/gu, (each) => SIGNS[each] ?? codePoint(each));
}

/** U+00E9 */
export function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}
