// The lessons' things to touch. Each is a <div class="hornbook-touch" data-kind data-props> that
// holds a picture in both languages; this replaces the picture. Colours suit light and dark pages.
const WORDS = {
  temperature: ["temperature", "온도"],
  keep: ["top-k: keep the likeliest", "top-k: 확률이 높은 것만"],
  share: ["top-p: keep this share", "top-p: 이만큼만 남기기"],
  draw: ["draw 20", "20번 뽑기"],
  drawn: ["drawn", "뽑은 것"],
  logit: ["logit", "로짓"],
  probability: ["probability", "확률"],
  reset: ["as at the beginning", "처음 값으로"],
  type: ["Type your own words:", "글을 입력해 보세요."],
  characters: ["characters", "글자"],
  bytes: ["bytes", "바이트"],
  pairs: ["byte pairs (BPE)", "바이트 쌍(BPE)"],
  unknown: ["not in the vocabulary", "어휘에 없음"],
  tokens: [" tokens", "개"],
  scores: ["Drag the scores of the past:", "과거의 점수를 움직여 보세요."],
  weights: ["weights (softmax)", "가중치(소프트맥스)"],
  mean: ["weighted mean of x", "x의 가중 평균"],
  future: ["future", "미래"],
  choose: ["Choose the character that attends:", "어텐션하는 글자를 골라 보세요."],
  attends: ["attends to", "이(가) 보는 위치"],
};

// Where byte pairs are never merged: between GPT-2's words.
const SPLIT = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function slider(name, { min, max, step, value }, change) {
  const shown = make("output", {}, String(value));
  const input = make("input", {
    type: "range", min, max, step, value, "aria-label": name,
    oninput: () => { shown.textContent = input.value; change(Number(input.value)); },
  });
  return { row: make("label", { class: "hb-slider" }, make("span", {}, name), input, shown), input };
}

function bars(names, values, caption) {
  return make("div", { class: "hb-bars", role: "img", "aria-label": caption },
    ...names.map((name, i) => make("div", { class: "hb-bar" },
      make("span", { class: "hb-name" }, name),
      make("span", { class: "hb-track" },
        make("span", { class: "hb-fill", style: `width:${(100 * values[i]).toFixed(2)}%` })),
      make("span", { class: "hb-value" }, values[i].toFixed(3)))));
}

// Top-k and then top-p of probabilities, as hornbook's sampler does; they sum to 1 again.
function restrict(values, keep, share) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  const sum = order.slice(0, keep).reduce((total, i) => total + values[i], 0);
  const kept = values.map(() => 0);
  let before = 0;
  for (const i of order.slice(0, keep)) {
    if (before < share) kept[i] = values[i];
    before += values[i] / sum;
  }
  const rest = kept.reduce((a, b) => a + b, 0);
  return kept.map((value) => value / rest);
}

const KINDS = {
  softmax(say, { names, logits }) {
    const now = [...logits];
    let temperature = 1;
    const out = make("div", { "aria-live": "polite" });
    const show = () => out.replaceChildren(
      bars(names, softmax(now.map((logit) => logit / temperature)), say("probability")));
    const rows = names.map((name, i) => slider(`${say("logit")} ${name}`,
      { min: -4, max: 4, step: 0.1, value: logits[i] }, (value) => { now[i] = value; show(); }).row);
    const heat = slider(say("temperature"), { min: 0.1, max: 5, step: 0.1, value: 1 },
      (value) => { temperature = value; show(); });
    show();
    return [...rows, heat.row, out];
  },

  sampling(say, { names, logits }) {
    const set = { temperature: 1, keep: names.length, share: 1 };
    const out = make("div"), drawn = make("p", { class: "hb-drawn", "aria-live": "polite" });
    let shares = [];
    const show = () => {
      shares = restrict(softmax(logits.map((z) => z / set.temperature)), set.keep, set.share);
      out.replaceChildren(bars(names, shares, say("probability")));
    };
    const row = (name, range) =>
      slider(say(name), range, (value) => { set[name] = value; show(); }).row;
    const pick = () => {
      let left = Math.random();
      for (let i = 0; i < shares.length; i += 1) {
        left -= shares[i];
        if (left < 0) return names[i];
      }
      return names[shares.indexOf(Math.max(...shares))];
    };
    show();
    return [
      row("temperature", { min: 0.1, max: 5, step: 0.1, value: 1 }),
      row("keep", { min: 1, max: names.length, step: 1, value: names.length }),
      row("share", { min: 0.05, max: 1, step: 0.05, value: 1 }),
      out,
      make("button", {
        type: "button",
        onclick: () => {
          drawn.textContent = `${say("drawn")}: ${Array.from({ length: 20 }, pick).join(" ")}`;
        },
      }, say("draw")),
      drawn,
    ];
  },

  averages(say, { x }) {
    const size = x.length;
    const scores = x.map((_, i) => x.map((_, j) => (j <= i ? 0 : -Infinity)));
    const table = make("table");
    const outputs = scores.map(() => make("td"));
    const weights = scores.map((row) => row.map(() => make("span")));
    const show = () => scores.forEach((row, i) => {
      const shares = softmax(row);
      shares.forEach((share, j) => {
        weights[i][j].textContent = share.toFixed(2);
        weights[i][j].parentElement.style.background = `rgba(59,130,246,${0.6 * share})`;
      });
      outputs[i].textContent =
        shares.reduce((sum, share, j) => sum + share * x[j], 0).toFixed(2);
    });
    table.append(make("tr", {}, make("th"),
      ...x.map((value, j) => make("th", {}, `x${j + 1} = ${value}`)), make("th", {}, say("mean"))));
    for (let i = 0; i < size; i += 1) {
      table.append(make("tr", {}, make("th", {}, String(i + 1)),
        ...scores[i].map((score, j) => make("td", {}, weights[i][j],
          score === 0
            ? make("input", {
              type: "range", min: -4, max: 4, step: 0.1, value: 0,
              "aria-label": `${i + 1}, ${j + 1}`,
              oninput: (event) => { scores[i][j] = Number(event.target.value); show(); },
            })
            : make("small", {}, say("future")))),
        outputs[i]));
    }
    show();
    return [make("p", {}, say("scores")), table];
  },

  attention(say, { names, weights }) {
    const out = make("div", { "aria-live": "polite" });
    const row = make("div", { class: "hb-tokens" });
    const show = (chosen) => {
      row.replaceChildren(...names.map((name, i) => make("button", {
        type: "button", "aria-pressed": String(i === chosen), onclick: () => show(i),
        style: i <= chosen ? `background:rgba(59,130,246,${0.6 * weights[chosen][i]})` : "",
      }, name)));
      out.replaceChildren(make("p", {}, `${chosen + 1}. ${names[chosen]} ${say("attends")}`),
        bars(names.slice(0, chosen + 1), weights[chosen].slice(0, chosen + 1), say("weights")));
    };
    show(names.length - 1);
    return [make("p", {}, say("choose")), row, out];
  },

  tokenizer(say, { text, characters, merges }) {
    const known = new Set(characters);
    const rank = new Map(merges.map((pair, i) => [pair, i]));
    const bytes = (words) => [...new TextEncoder().encode(words)];
    const hex = (part) => part.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    // A part of a character is shown by its bytes.
    const shown = (part) => {
      const words = new TextDecoder().decode(Uint8Array.from(part));
      return words.includes("\uFFFD") ? hex(part) : words.replaceAll(" ", "␣");
    };
    // The earliest learned pair is merged first, until none is left.
    const merge = (words) => {
      let parts = bytes(words).map((byte) => [byte]);
      for (;;) {
        let best = Infinity, at = -1;
        for (let i = 0; i + 1 < parts.length; i += 1) {
          const found = rank.get(`${hex(parts[i])} ${hex(parts[i + 1])}`);
          if (found < best) { best = found; at = i; }
        }
        if (at < 0) return parts;
        parts = [...parts.slice(0, at), parts[at].concat(parts[at + 1]), ...parts.slice(at + 2)];
      }
    };
    const out = make("div", { "aria-live": "polite" });
    const line = (name, parts, isUnknown = () => false) => make("div", {},
      make("p", {}, `${say(name)}: ${parts.length}${say("tokens")}`),
      make("div", { class: "hb-tokens" }, ...parts.map((part) => make("span",
        isUnknown(part) ? { class: "hb-unknown", title: say("unknown") } : {}, shown(part)))));
    const show = (words) => out.replaceChildren(
      line("characters", [...words].map(bytes),
        (part) => !known.has(new TextDecoder().decode(Uint8Array.from(part)))),
      line("bytes", bytes(words).map((byte) => [byte])),
      line("pairs", (words.match(SPLIT) ?? []).flatMap(merge)));
    const input = make("input", {
      type: "text", value: text, maxlength: 80, "aria-label": say("type"),
      oninput: () => show(input.value),
    });
    show(text);
    return [make("label", {}, say("type"), " ", input), out];
  },
};

for (const root of document.querySelectorAll(".hornbook-touch:not([data-live])")) {
  root.dataset.live = "";
  const korean = root.querySelector('[lang="ko"]');
  const language = korean && getComputedStyle(korean).display !== "none" ? 1 : 0;
  const say = (word) => WORDS[word][language];
  root.replaceChildren(...KINDS[root.dataset.kind](say, JSON.parse(root.dataset.props)));
}
