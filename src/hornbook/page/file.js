// The page as one file: the model's facts and numbers are in it.

import { inflate } from "./arrays.js";
import { show } from "./main.js";

async function openFile() {
  const about = JSON.parse(document.getElementById("about").textContent);
  await show(about, await inflate(document.getElementById("numbers").textContent));
  document.documentElement.dataset.ready = "true";
}

openFile();
