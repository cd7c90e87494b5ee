// A button at each code cell that copies its code; and the keyboard scrolls what is wide.
document.addEventListener("DOMContentLoaded", () => {
  for (const wide of document.querySelectorAll("pre, .hornbook-drawing, .hornbook-plot")) {
    if (wide.scrollWidth > wide.clientWidth || wide.scrollHeight > wide.clientHeight) wide.tabIndex = 0;
  }
  const [copy, copied] =
    document.documentElement.lang === "ko" ? ["복사", "복사했어요"] : ["Copy", "Copied"];
  for (const cell of document.querySelectorAll(".cell_input .highlight, .highlight-bash .highlight")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-code";
    button.textContent = copy;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(cell.querySelector("pre").textContent);
      button.textContent = copied;
      setTimeout(() => { button.textContent = copy; }, 1500);
    });
    cell.append(button);
  }
});
