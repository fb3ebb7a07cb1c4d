"use strict";

// Images from the file dialog, a drop or the clipboard in; a card for each out. Every text that came from a file or
// from the server is put in as text, never as markup.

const SENT_AT_ONCE = 3;
const MOST_TRIES = 8;
const FEW_BARS = 5;
const MOST_BARS = 200;
const NUM_NEAREST = 6;
const MOST_IN_SET = 8;

const page = { model: null, waiting: [], underWay: 0, token: location.hash.slice(1) };

function percent(share, decimals = 1) {
  const smallest = 10 ** -decimals;
  let words = (100 * share).toFixed(decimals);
  if (share < 1 && Number(words) >= 100) words = "> " + (100 - smallest).toFixed(decimals);
  else if (share > 0 && Number(words) <= 0) words = "< " + smallest.toFixed(decimals);
  return words + "\u202f%";
}

function counted(number, one, many = one + "s") {
  return number.toLocaleString("en") + "\u202f" + (number === 1 ? one : many);
}

// ---- what the model is

async function describe() {
  let model;
  try {
    const response = await fetch("/api/model");
    if (!response.ok) throw new Error(String(response.status));
    model = await response.json();
  } catch {
    showTrouble("The server does not answer. Is vizsla serve still running? Start it again and reload this page.");
    return;
  }
  page.model = model;
  byId("title").textContent = model.title;
  document.title = model.title + " · vizsla";
  const names = model.vocab.slice(0, 12).join(", ") + (model.vocab.length > 12 ? " and others" : "");
  byId("lead").textContent = {
    category: `Recognises ${counted(model.vocab.length, "class", "classes")}: ${names}.`,
    multi_category: `Finds any of ${counted(model.vocab.length, "label")}: ${names}.`,
    regression: `Estimates ${names}.`,
  }[model.task];
  const limits = model.limits;
  byId("limits").textContent =
    `Up to ${(limits.body_bytes / 1e6).toLocaleString("en")}\u202fMB and ` +
    `${(limits.pixels / 1e6).toLocaleString("en")} million pixels each.`;
  if (model.corrections) byId("stored").textContent = "They are stored only if you correct an answer.";
  if (model.examples) showExamples(model.examples);
  showFacts(model);
}

function showExamples(count) {
  byId("example-list").replaceChildren(...Array.from({ length: count }, (_, number) => {
    const address = `/api/example?number=${number}`;
    const item = element("li");
    const button = element("button", "thumb");
    button.type = "button";
    const image = element("img");
    image.src = address;
    image.alt = "";
    button.setAttribute("aria-label", `Classify example ${number + 1}`);
    button.append(image);
    button.addEventListener("click", async () => {
      try {
        const content = await (await fetch(address)).blob();
        take([new File([content], `example ${number + 1}.jpg`, { type: "image/jpeg" })]);
      } catch {
        showTrouble("The server does not answer. Is vizsla serve still running?");
      }
    });
    item.append(button);
    return item;
  }));
  byId("examples").hidden = false;
}

function showFacts(model) {
  const facts = [["Network", model.architecture]];
  if (model.size) facts.push(["Image size", `${model.size[1]} × ${model.size[0]} pixels`]);
  for (const metric of model.metrics) {
    if (metric.name !== "accuracy" || metric.value === null) continue;
    const interval = metric.low === null ? "" : ` (95\u202f% interval ${percent(metric.low)} to ${percent(metric.high)})`;
    facts.push(["Accuracy", `${percent(metric.value)}${interval} on ${counted(metric.num_pictures, "validation image")}`]);
  }
  const calibration = model.calibration;
  if (calibration) {
    const after = percent(calibration.error_after);
    const images = counted(calibration.num_pictures, "validation image");
    facts.push(["Probabilities", calibration.temperature === 1
      ? `As the model gives them; calibration error ${after} on ${images}`
      : `Calibrated on ${images}; calibration error ${percent(calibration.error_before)} before that, ${after} after`]);
    if (calibration.separation !== null) {
      facts.push(["None of these", `An image of a class left out of the answers scored lower than one of a known class in ${percent(calibration.separation, 0)} of pairs; 50\u202f% is chance`]);
    }
  }
  if (model.thresholds) {
    const each = Object.entries(model.thresholds).map(([name, share]) => `${name} ${percent(share)}`);
    facts.push(["Thresholds", each.slice(0, 12).join(", ") + (each.length > 12 ? " and others" : "")]);
  }
  if (model.weights) facts.push(["Started from", model.weights + (model.licence ? `; licence: ${model.licence}` : "")]);
  if (model.recipe) facts.push(["Recipe", model.recipe]);
  if (model.created) facts.push(["Made", model.created.slice(0, 10)]);
  if (model.nearest) facts.push(["Compared with", counted(model.nearest, "training image")]);
  facts.push(["Version", `vizsla ${model.vizsla} on ${model.device}`]);
  byId("facts").replaceChildren(...facts.map(([name, value]) => {
    const row = element("div");
    row.append(element("dt", "", name), element("dd", "", value));
    return row;
  }));
  byId("about").hidden = false;
}

function showTrouble(words) {
  byId("trouble").textContent = words;
  byId("trouble").hidden = !words;
}

// ---- taking images

function take(files) {
  const images = [...files];
  if (!images.length) {
    showTrouble("There was no image in that. Choose image files, or copy an image itself, not its address.");
    return;
  }
  showTrouble("");
  byId("answers").hidden = false;
  const cards = images.map((file) => newCard(file));
  byId("list").prepend(...cards.map((card) => card.node));
  say(`${counted(cards.length, "image")} taken.`);
  for (const card of cards) enqueue(card);
}

function newCard(file) {
  const node = byId("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => node.querySelector(selector);
  const card = { file, node, find, address: URL.createObjectURL(file), removed: false };
  breakable(find(".path"), file.name || "pasted image");
  const image = find(".given img");
  image.alt = "The image " + (file.name || "that was pasted");
  image.addEventListener("error", () => {
    image.hidden = true;
    node.classList.add("blank");
    find(".given .missing").hidden = false;
  });
  image.src = card.address;
  find(".remove").setAttribute("aria-label", "Remove " + (file.name || "pasted image"));
  find(".remove").addEventListener("click", () => removeCard(card));
  find(".again").addEventListener("click", () => {
    enqueue(card);
    find(".remove").focus();
  });
  node.card = card;
  return card;
}

function removeCard(card) {
  const next = card.node.nextElementSibling ?? card.node.previousElementSibling;
  card.removed = true;
  URL.revokeObjectURL(card.address);
  card.node.remove();
  if (next) next.querySelector(".remove").focus();
  else {
    byId("answers").hidden = true;
    byId("choose").focus();
  }
}

function enqueue(card) {
  card.find(".wait").hidden = false;
  card.find(".wait-words").textContent = "Classifying";
  card.find(".fault").hidden = true;
  card.node.classList.remove("failed");
  card.node.setAttribute("aria-busy", "true");
  page.waiting.push(card);
  sendNext();
}

function sendNext() {
  while (page.underWay < SENT_AT_ONCE && page.waiting.length) {
    const card = page.waiting.shift();
    if (card.removed) continue;
    page.underWay += 1;
    send(card).finally(() => {
      page.underWay -= 1;
      sendNext();
    });
  }
}

// ---- asking the server

async function send(card) {
  const most = page.model?.limits.body_bytes;
  if (most && card.file.size > most) {
    const size = (card.file.size / 1e6).toLocaleString("en", { maximumFractionDigits: 1 });
    showFault(card, "Too big", `It has ${size}\u202fMB, and this server takes ${(most / 1e6).toLocaleString("en")}\u202fMB. Make it smaller first.`);
    return;
  }
  for (let tries = 1; tries <= MOST_TRIES && !card.removed; tries += 1) {
    const response = await post(card);
    if (!response) return;
    if (response.status === 503 || response.status === 429) {
      card.find(".wait-words").textContent = "The server is busy; waiting for its turn";
      const seconds = Number(response.headers.get("retry-after")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (0.75 + 0.5 * Math.random())));
      continue;
    }
    await showResponse(card, response);
    return;
  }
  if (!card.removed) showFault(card, "The server is busy", "It could not take this image for a while.", true);
}

async function post(card) {
  const form = new FormData();
  form.append("pictures", card.file, card.file.name || "pasted.png");
  try {
    return await fetch(`/api/predict?heat=1&nearest=${NUM_NEAREST}`, { method: "POST", body: form });
  } catch {
    const words = "It may have been stopped, or the connection is lost. Is vizsla serve still running?";
    showFault(card, "The server does not answer", words, true);
    return null;
  }
}

async function showResponse(card, response) {
  let content;
  try {
    content = await response.json();
  } catch {
    showFault(card, "The server stopped", "Its answer is cut off.", true);
    return;
  }
  const answer = content.pictures?.[0];
  if (!answer) {
    const title = response.status === 413 ? "Too big" : "The server refused it";
    showFault(card, title, content.error ?? `It says ${response.status} and nothing more.`, response.status >= 500);
  } else if (answer.error) {
    const title = /pixels, more than/.test(answer.error) ? "Too big" : "Cannot be read";
    showFault(card, title, answer.error[0].toUpperCase() + answer.error.slice(1) + ".");
  } else {
    showAnswer(card, answer);
  }
}

// ---- showing what came back

function showFault(card, title, words, again = false) {
  finish(card);
  card.node.classList.add("failed");
  card.find(".fault").hidden = false;
  card.find(".fault-title").textContent = title;
  card.find(".fault-words").textContent = words;
  card.find(".again").hidden = !again;
  say(`${card.file.name || "Pasted image"}: ${title}. ${words}`);
}

function finish(card) {
  card.find(".wait").hidden = true;
  card.node.removeAttribute("aria-busy");
}

function showAnswer(card, answer) {
  finish(card);
  const words = verdictOf(answer);
  card.find(".verdict").hidden = false;
  breakable(card.find(".verdict .label"), words.label);
  card.find(".verdict .share").textContent = words.share;
  card.node.classList.toggle("unsure", words.unsure);
  const foreign = showForeign(card, answer);
  showSet(card, answer);
  if (answer.probabilities) showBars(card, answer);
  if (answer.heat) {
    const heat = card.find(".heat");
    heat.hidden = false;
    heat.querySelector("img").src = answer.heat;
    heat.querySelector("img").alt = `Heat map: bright places support ${words.label}`;
  }
  if (answer.nearest) showNearest(card, answer.nearest);
  card.answer = answer;
  byId("save").hidden = false;
  if (page.model?.corrections && page.token && answer.probabilities) offerCorrection(card, answer);
  say([`${card.file.name || "Pasted image"}: ${words.label} ${words.share}`.trim(), ...foreign].join(". "));
}

// Says that an image is like none of those that the model knows; returns the words.
function showForeign(card, answer) {
  card.find(".foreign").hidden = !answer.none_of_these;
  if (!answer.none_of_these) return [];
  const title = "Looks like none of the classes";
  const many = answer.familiarity > 0 ? `${percent(answer.familiarity)} of the validation images were` : "No validation image was";
  const refused = page.model?.calibration ? percent(page.model.calibration.refused_share, 0) : "Some";
  card.find(".foreign-title").textContent = title;
  card.find(".foreign-words").textContent =
    `${many} as unlike all of the classes as this one. ${refused} of the images of known classes get this notice too.`;
  return [title];
}

// The labels among which the true one is, as often as stated.
function showSet(card, answer) {
  const shown = answer.label_set && !answer.none_of_these; // "Only cat" would contradict "none of the classes".
  card.find(".set").hidden = !shown;
  if (!shown) return;
  const all = Object.keys(answer.probabilities).length;
  breakable(card.find(".set-labels"), setWords(answer.label_set, all));
  card.find(".set .aside").textContent =
    `This set holds the true label in ${Number((100 * answer.coverage).toFixed(4))}\u202f% of images like those of validation.`;
}

function setWords(labels, all) {
  if (labels.length === 1) return `Only ${labels[0]}`;
  if (labels.length === all && all > 2) return `Any of the ${counted(all, "class", "classes")}`;
  const shown = labels.length > MOST_IN_SET ? labels.slice(0, MOST_IN_SET - 1) : labels.slice(0, -1);
  const rest = labels.length - shown.length;
  return `${shown.join(", ")} or ${rest === 1 ? labels[labels.length - 1] : `one of ${rest} others`}`;
}

function verdictOf(answer) {
  if (!answer.probabilities) {
    const numbers = Object.entries(answer.prediction).map(([name, value]) => `${name} ${Number(value.toPrecision(5))}`);
    return { label: numbers.join(", "), share: "", unsure: false };
  }
  if (Array.isArray(answer.prediction)) {
    const none = answer.prediction.length === 0;
    return { label: none ? "None of the labels" : answer.prediction.join(", "), share: "", unsure: none };
  }
  return { label: answer.prediction, share: percent(answer.probability), unsure: answer.probability < 0.5 || Boolean(answer.none_of_these) };
}

function showBars(card, answer) {
  const chosen = new Set([].concat(answer.prediction));
  const ranked = Object.entries(answer.probabilities).sort((left, right) => right[1] - left[1]);
  const bars = ranked.slice(0, MOST_BARS).map(([name, share]) => bar(name, share, chosen.has(name)));
  const few = ranked.length <= FEW_BARS + 1 ? ranked.length : FEW_BARS;
  card.find(".bars").replaceChildren(...bars.slice(0, few));
  card.find(".bars").hidden = false;
  const rest = bars.slice(few);
  card.find(".more").hidden = !rest.length;
  card.find(".more summary").textContent = `${counted(rest.length, "less likely class", "less likely classes")}`;
  card.find(".rest").replaceChildren(...rest);
}

function bar(name, share, first) {
  const row = element("li", first ? "first" : "");
  const track = element("span", "track");
  track.setAttribute("aria-hidden", "true");
  const fill = element("span", "fill");
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  row.append(breakable(element("span", "name"), name), element("span", "value", percent(share)), track);
  return row;
}

function offerCorrection(card, answer) {
  const choice = card.find(".correct select");
  choice.multiple = Array.isArray(answer.prediction);
  const ranked = Object.entries(answer.probabilities).sort((left, right) => right[1] - left[1]);
  choice.replaceChildren(...ranked.map(([name]) => {
    const option = element("option", "", name);
    option.value = name;
    return option;
  }));
  if (!choice.multiple && ranked.length > 1) choice.value = ranked[1][0];
  card.find(".correct").hidden = false;
  card.find(".correct form").onsubmit = (event) => {
    event.preventDefault();
    correct(card, [...choice.selectedOptions].map((option) => option.value));
  };
}

async function correct(card, labels) {
  let words = "The server does not answer. Is vizsla serve still running?";
  try {
    const address = `/api/correct?label=${encodeURIComponent(labels.join(";"))}`;
    const headers = { "content-type": "application/octet-stream", "x-token": page.token };
    const response = await fetch(address, { method: "POST", headers, body: card.file });
    if (response.ok) {
      card.find(".correct").open = false;
      words = `Saved as ${labels.join(", ")}.`;
    } else {
      words = (await response.json()).error;
    }
  } catch {
    // What is said already holds.
  }
  card.find(".corrected").textContent = words;
  card.find(".corrected").hidden = false;
}

// A row for each answer, in the columns of vizsla predict --csv.
function saveCsv() {
  const cards = [...byId("list").children].map((node) => node.card).filter((card) => card.answer);
  const isNumber = page.model.task === "regression";
  const columns = page.model.vocab.map((name) => (isNumber ? "prediction_" : "prob_") + name);
  const rows = [["path", ...(isNumber ? [] : ["prediction", "probability"]), ...columns]];
  for (const { answer } of cards) {
    const said = isNumber ? [] : [[].concat(answer.prediction).join(";"), answer.probability ?? ""];
    const numbers = isNumber ? answer.prediction : answer.probabilities;
    rows.push([answer.name, ...said, ...page.model.vocab.map((name) => numbers[name])]);
  }
  const link = element("a");
  const text = rows.map((row) => row.map(csvCell).join(",") + "\r\n").join("");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Text that a spreadsheet would take for a formula gets a quote in front.
function csvCell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function showNearest(card, nearest) {
  card.find(".gallery").replaceChildren(...nearest.map((one) => {
    const item = element("li");
    const frame = element("div", "thumb");
    const image = element("img");
    image.src = one.picture;
    image.alt = "";
    frame.append(image);
    item.append(frame, breakable(element("span", "name"), one.label || "no label"), element("span", "value", `similarity ${one.similarity.toFixed(2)}`));
    const track = element("span", "track");
    track.setAttribute("aria-hidden", "true");
    const fill = element("span", "fill");
    fill.style.width = `${100 * Math.min(1, Math.max(0, one.similarity))}%`;
    track.append(fill);
    item.append(track);
    return item;
  }));
  card.find(".near").hidden = false;
}

// ---- what people do

byId("choose").addEventListener("click", () => byId("files").click());
byId("camera").addEventListener("click", () => byId("photo").click());
for (const id of ["files", "photo"]) {
  byId(id).addEventListener("change", (event) => {
    if (event.target.files.length) take(event.target.files);
    event.target.value = "";
  });
}
byId("save").addEventListener("click", saveCsv);
byId("clear").addEventListener("click", () => {
  for (const node of [...byId("list").children]) {
    node.card.removed = true;
    URL.revokeObjectURL(node.card.address);
    node.remove();
  }
  byId("answers").hidden = true;
  byId("save").hidden = true;
  say("All images removed.");
  byId("choose").focus();
});
addEventListener("paste", (event) => {
  const files = event.clipboardData?.files ?? [];
  const text = event.clipboardData?.getData("text/plain");
  if (files.length || text) take(files);
});
let depth = 0; // Entering a child comes before leaving its parent.
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth += 1;
  document.body.classList.add("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("dragleave", () => {
  depth -= 1;
  if (depth <= 0) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelector("kbd").textContent = "\u2318";
describe();
