// Conveniences only: the report is complete without this file.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector(".theme");
  const next = { auto: "light", light: "dark", dark: "auto" };
  const remember = (name) => { try { localStorage.setItem("dlpipe-theme", name); } catch { /* private mode */ } };
  const remembered = () => { try { return localStorage.getItem("dlpipe-theme"); } catch { return null; } };
  const choose = (name) => {
    root.dataset.theme = name;
    button.textContent = "Theme: " + name;
  };
  choose(remembered() in next ? remembered() : "auto");
  button.hidden = false;
  button.addEventListener("click", () => { choose(next[root.dataset.theme]); remember(root.dataset.theme); });

  for (const box of document.querySelectorAll(".code")) {
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(box.querySelector("code").textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box.querySelector("code"));
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    box.append(copy);
  }

  // The browser's own tooltips are slow and do not come on touch screens.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const svg of document.querySelectorAll("svg")) {
    svg.setAttribute("aria-label", svg.querySelector("title").textContent + ". " + svg.querySelector("desc").textContent);
    svg.querySelector("title").remove();
    for (const title of svg.querySelectorAll("title")) {
      title.parentNode.dataset.tip = title.textContent;
      title.remove();
    }
  }
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest?.("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
  });

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);

  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details:not(.numbers)")) fold.open = true;
  });
})();
