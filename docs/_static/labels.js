// What no catalogue reaches: the theme's labels, and models in frames, which are made once for
// both languages.
const KOREAN = {
  "Skip to content": "본문으로 건너뛰기",
  "Toggle site navigation sidebar": "전체 목차 열기와 닫기",
  "Toggle table of contents sidebar": "이 페이지의 목차 열기와 닫기",
  "Toggle Light / Dark / Auto color theme": "밝은 화면, 어두운 화면, 자동 바꾸기",
  "Toggle hidden content": "숨긴 내용 열기와 닫기",
};
document.addEventListener("DOMContentLoaded", () => {
  for (const frame of document.querySelectorAll("iframe[srcdoc]")) {
    const tell = () => frame.contentWindow.postMessage({ language: document.documentElement.lang }, "*");
    frame.addEventListener("load", tell);
    tell(); // it may be loaded already
  }
  // Answers are folded away by their cell already.
  for (const answers of document.querySelectorAll("details .hornbook-answers")) answers.open = true;
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = "2";
  if (document.documentElement.lang !== "ko") return;
  for (const element of document.querySelectorAll("[aria-label]")) {
    element.ariaLabel = KOREAN[element.ariaLabel] ?? element.ariaLabel;
  }
  const skip = document.querySelector(".skip-to-content");
  skip.textContent = KOREAN[skip.textContent.trim()] ?? skip.textContent;
});
