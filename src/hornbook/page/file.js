// The page as one file: the model's facts and numbers are in it.

import { inflate } from "./arrays.js";
import { show } from "./main.js";
import { strings } from "./strings.js";

async function openFile() {
  const about = JSON.parse(document.getElementById("about").textContent);
  let page = null;
  // A page around this one, which has it in a frame, says its language.
  addEventListener("message", ({ source, data }) => {
    if (source !== parent || !Object.hasOwn(strings, data?.language)) return;
    about.language = data.language;
    page?.speak(data.language);
  });
  page = await show(about, await inflate(document.getElementById("numbers").textContent));
  if (about.language && about.language !== page.app.language) page.speak(about.language);
  document.documentElement.dataset.ready = "true";
}

openFile();
