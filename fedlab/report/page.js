"use strict";
// Sorts tables and enlarges images. It reads and moves what the page holds, and builds text from text alone.
(() => {
  const say = document.createElement("p");
  say.className = "hidden";
  say.setAttribute("aria-live", "polite");
  document.body.append(say);

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = column > 0 && head.getAttribute("aria-sort") !== "descending";
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        const compare = (a, b) => {
          const x = value(a), y = value(b);
          if (x === "" || y === "") return (x === "") - (y === "");
          const order = column > 0 ? Number(x) - Number(y) : x.localeCompare(y, "en");
          return down ? -order : order;
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
        say.textContent = `Sorted by ${button.textContent.trim()}, ${down ? "highest" : "lowest"} first`;
      });
    });
  }

  const box = document.createElement("dialog");
  box.className = "zoom";
  box.setAttribute("aria-label", "Enlarged images");
  const shut = document.createElement("button");
  shut.type = "button";
  shut.textContent = "Close";
  shut.addEventListener("click", () => box.close());
  const room = document.createElement("div");
  box.append(shut, room);
  document.body.append(box);
  let sheet, at;

  function show() {
    room.replaceChildren(
      ...[...sheet.querySelectorAll(`.tile[data-at="${at}"] img`)].map((image) => {
        const figure = document.createElement("figure");
        const words = document.createElement("figcaption");
        const db = image.parentElement.querySelector(".db");
        words.textContent = image.alt + (db ? `, ${db.textContent} dB` : "");
        const large = image.cloneNode();
        ["role", "tabindex", "aria-label"].forEach((name) => large.removeAttribute(name));
        figure.append(large, words);
        return figure;
      }),
    );
  }

  function open(image) {
    sheet = image.closest(".sheet");
    at = Number(image.parentElement.dataset.at);
    show();
    box.showModal();
  }

  for (const image of document.querySelectorAll(".sheet .tile img")) {
    image.addEventListener("click", () => open(image));
    if (image.closest(".sheet").querySelector(".tiles").contains(image)) {
      image.setAttribute("role", "button");
      image.setAttribute("tabindex", "0");
      image.setAttribute("aria-label", `Enlarge ${image.alt} and what attacks made of it`);
      image.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          open(image);
        }
      });
    }
  }

  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0;
    if (step && sheet.querySelector(`.tile[data-at="${at + step}"] img`)) {
      at += step;
      show();
    }
  });

  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
})();
