"use strict";

// One image after another is shown with what is known of it; a key decides and moves on. Decisions are sent one at a time, in
// order, and stay on the page until the server has written them down. Every text that came from a file or from the server is
// put in as text, never as markup.

const BATCH = 18;
const POLL_MS = 4000, FITTING_MS = 500;
const MOST_FOUND = 50;

const token = location.hash.slice(1);
const page = {
  state: null, view: "todo", cards: [], at: 0, passed: new Set(), versions: new Map(),
  waiting: [], sending: false, done: [], conflicts: [], picked: 0,
};

function percent(share) {
  return (100 * share).toFixed(1) + "\u202f%";
}

// ---- talking to the server

async function ask(path, body) {
  const options = { headers: { "x-token": token } };
  if (body) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is vizsla label still running? After a new start, open the address that it prints.");
  }
  const content = await response.json();
  if (!response.ok && response.status !== 409) {
    const error = new Error(content.error ?? `The server says ${response.status} and nothing more.`);
    error.isFinal = [400, 404, 413, 415].includes(response.status); // trying again would not help
    throw error;
  }
  return content;
}

async function askCards(images) {
  if (!images.length) return [];
  const { cards } = await ask(`/api/cards?images=${images.join(",")}`);
  for (const card of cards) page.versions.set(card.image, card.version);
  return cards;
}

function imageAddress(image, large = false) {
  return `/api/image?image=${image}${large ? "&large=1" : ""}&token=${encodeURIComponent(token)}`;
}

function showTrouble(error) {
  const unsaved = page.waiting.length ? ` Not saved yet: ${page.waiting.length}.` : "";
  byId("trouble-words").textContent = error.message + unsaved;
  byId("trouble").hidden = false;
}

function takeState(state) {
  const isNew = state.revision !== page.state?.revision;
  page.state = state;
  if (!isNew) return false;
  byId("title").textContent = state.title;
  document.title = `${state.title} · vizsla label`;
  byId("file").textContent = state.file;
  byId("command").textContent = state.lacking ? "" : state.command;
  byId("command").hidden = Boolean(state.lacking);
  byId("train-words").textContent = state.lacking || "In a terminal, now or later; the file of decisions is complete at any moment.";
  for (const button of byId("views").children) button.querySelector("span").textContent = state.counts[button.dataset.view].toLocaleString("en");
  showAccuracy();
  showClasses();
  return true;
}

async function poll() {
  try {
    if (!document.hidden && !page.sending && page.state) {
      const isNew = takeState(await ask("/api/state"));
      if (isNew && !page.sending) await refresh();
      if (!page.waiting.length) byId("trouble").hidden = true;
    }
  } catch (error) {
    showTrouble(error);
  }
  setTimeout(poll, page.state?.fitting ? FITTING_MS : POLL_MS);
}

// Suggestions and decisions of the images that are shown, as they are now; their order stays.
async function refresh() {
  if (!page.cards.length) {
    if (page.state.counts[page.view]) await load();
    return;
  }
  const fresh = await askCards(page.cards.map((card) => card.image));
  const known = new Map(fresh.map((card) => [card.image, card]));
  page.cards = page.cards.map((card) => (card.sent ? card : known.get(card.image) ?? card));
  show();
}

// ---- which images

async function load() {
  const { images } = await ask(`/api/queue?view=${page.view}`);
  let next = images.filter((image) => !page.passed.has(image));
  if (!next.length) { // those that were skipped come up once more
    page.passed.clear();
    next = images;
  }
  page.cards = await askCards(next.slice(0, BATCH));
  page.at = 0;
  show();
}

function isOpen(card) {
  return page.view === "todo" || page.view === "doubtful" ? !card.decided && !card.sent : true;
}

async function move(step) {
  const at = page.at + step;
  if (at >= page.cards.length) return pass();
  page.at = Math.max(0, at);
  show();
}

// To the next image without a decision: in this batch, else the first of the next one.
async function moveOn() {
  const order = [...page.cards.keys()];
  const ahead = page.view === "decided" || page.view === "all" ? [page.at + 1] : [...order.slice(page.at + 1), ...order.slice(0, page.at)];
  const next = ahead.find((place) => place < page.cards.length && isOpen(page.cards[place]));
  if (next === undefined) return pass();
  page.at = next;
  show();
}

async function pass() {
  await flush();
  try {
    for (const card of page.cards) page.passed.add(card.image);
    await load();
  } catch (error) {
    showTrouble(error);
  }
}

// ---- decisions

function decide(action, label = "") {
  const card = page.cards[page.at];
  if (!card) return;
  if (action === "keep" && !card.given) return say("It has no label that could be right. Choose a class, or drop it.");
  card.sent = { action, label };
  page.done.push(card.image);
  enqueue({ image: card.image, action, label });
  say(`${card.path}: ${words(card.sent)}`);
  moveOn();
}

// A decision carries the version that was seen; one after another of the same image, what the earlier one leads to.
function enqueue(one) {
  const follows = page.waiting.some(({ image }) => image === one.image);
  page.waiting.push({ version: follows ? undefined : page.versions.get(one.image), ...one });
  flush();
}

function words({ action, label }) {
  return { keep: "label is right", drop: "dropped", label }[action];
}

function undo() {
  const latest = page.state.latest;
  const image = page.done.pop() ?? latest?.image;
  if (image === undefined) return say("There is nothing to undo.");
  if (!page.versions.has(image)) page.versions.set(image, latest?.image === image ? latest.version : "");
  enqueue({ image, undo: true });
  const place = page.cards.findIndex((card) => card.image === image);
  if (place < 0) return;
  page.at = place;
  page.cards[place].sent = null;
  show();
}

let flushing = Promise.resolve();
function flush() {
  flushing = flushing.then(send);
  return flushing;
}

async function send() {
  page.sending = true;
  try {
    while (page.waiting.length) {
      await sendOne(page.waiting[0]);
      page.waiting.shift();
    }
    byId("trouble").hidden = true;
  } catch (error) {
    if (error.isFinal) takeBack(page.waiting.shift());
    showTrouble(error);
  }
  page.sending = false;
}

async function sendOne(one) {
  const { image, action, label } = one;
  const version = one.version ?? page.versions.get(image) ?? "";
  const answer = await (one.undo ? ask("/api/undo", { image, version }) : ask("/api/decide", { image, action, label, version }));
  const card = answer.card;
  page.versions.set(image, card.version);
  takeState(answer.state);
  const place = page.cards.findIndex((other) => other.image === image);
  const follows = page.waiting.slice(1).some((other) => other.image === image);
  if (place >= 0 && !follows) page.cards[place] = card;
  if (answer.error) {
    takeBack(one);
    if (!one.undo) page.conflicts.push({ card, action, label });
    say(answer.error);
  } else if (one.undo) {
    page.passed.delete(image);
    if (place < 0) page.cards.splice(page.at, 0, card);
    say(`${card.path}: undone`);
  }
  show();
}

function takeBack(one) {
  const place = page.done.lastIndexOf(one.image);
  if (!one.undo && place >= 0) page.done.splice(place, 1);
  for (const card of page.cards) if (card.image === one.image) card.sent = null;
}

// ---- showing

function show() {
  const card = page.cards[page.at];
  byId("work").hidden = !card;
  byId("empty").hidden = Boolean(card);
  if (!card) return showEmpty();
  showGrid();
  const large = byId("large");
  const address = imageAddress(card.image, true);
  if (large.getAttribute("src") !== address) {
    byId("gone").hidden = true;
    large.hidden = false;
    large.src = address;
  }
  large.alt = card.path;
  breakable(byId("path"), card.path);
  const label = card.sent ? words(card.sent) : card.dropped ? "dropped" : card.label;
  breakable(byId("label"), label || "none yet");
  byId("label").classList.toggle("none", !label);
  byId("rather").hidden = !card.suggestion;
  byId("rather").classList.toggle("same", card.suggestion === card.label);
  breakable(byId("suggestion"), card.suggestion);
  byId("share").textContent = card.suggestion ? percent(card.probability) : "";
  byId("reason").textContent = card.reason;
  byId("keep").disabled = !card.given;
  byId("undo").disabled = !page.state.latest && !page.waiting.length;
  showConflict();
  showNear(card);
  showClasses();
  const next = page.cards[page.at + 1];
  if (next) new Image().src = imageAddress(next.image, true);
}

function showConflict() {
  const [first] = page.conflicts;
  byId("conflict").hidden = !first;
  if (!first) return;
  const theirs = first.card.dropped ? "dropped" : first.card.label || "no label";
  byId("conflict-words").textContent = `${first.card.path}: somebody else decided meanwhile: ${theirs}. Yours was: ${words(first)}.`;
}

function showNear(card) {
  byId("near").hidden = !card.near.length;
  const list = byId("near").querySelector("ol");
  list.replaceChildren();
  for (const one of card.near) {
    const item = element("li");
    const thumb = element("div", "thumb");
    const image = element("img");
    image.src = imageAddress(one.image);
    image.alt = "";
    thumb.append(image);
    const kind = one.label && one.label === card.label ? "own" : one.label && one.label === card.suggestion ? "rather" : "";
    item.append(thumb, breakable(element("span", `name ${kind}`), one.label || "no label"));
    list.append(item);
  }
}

function showClasses() {
  const card = page.cards[page.at];
  const box = byId("classes");
  const chosen = card?.sent?.action === "label" ? card.sent.label : card?.label;
  box.replaceChildren();
  page.state.classes.slice(0, 9).forEach(({ name, count }, place) => {
    const button = element("button");
    button.type = "button";
    button.classList.toggle("chosen", name === chosen);
    button.classList.toggle("suggested", name === card?.suggestion && name !== chosen);
    if (name === chosen) button.setAttribute("aria-pressed", "true");
    button.append(element("kbd", "", String(place + 1)), breakable(element("span", "name"), name), element("span", "number", count.toLocaleString("en")));
    button.title = name;
    button.addEventListener("click", () => decide("label", name));
    box.append(button);
  });
  const others = page.state.classes.length - 9;
  const other = element("button", "other");
  other.type = "button";
  other.append(element("kbd", "", "/"), element("span", "name", others > 0 ? `${others.toLocaleString("en")} more, or a new class` : "New class"));
  other.addEventListener("click", openSearch);
  box.append(other);
}

function showGrid() {
  const grid = byId("grid");
  const focused = grid.contains(document.activeElement);
  grid.replaceChildren();
  page.cards.forEach((card, place) => {
    const item = element("li", card.decided || card.sent ? "decided" : "");
    item.classList.toggle("dropped", card.dropped || card.sent?.action === "drop");
    item.classList.toggle("unsaved", Boolean(card.sent));
    const button = element("button");
    button.type = "button";
    if (place === page.at) button.setAttribute("aria-current", "true");
    button.tabIndex = place === page.at ? 0 : -1;
    const thumb = element("div", "thumb");
    const image = element("img");
    image.src = imageAddress(card.image);
    image.alt = "";
    image.loading = "lazy";
    thumb.append(image);
    const said = card.sent ? words(card.sent) : card.dropped ? "dropped" : card.label || "no label";
    button.setAttribute("aria-label", `${card.path}: ${said}${card.decided ? ", decided" : ""}`);
    button.append(thumb, breakable(element("span", "name"), said));
    button.addEventListener("click", () => {
      page.at = place;
      show();
      byId("card").scrollIntoView({ block: "nearest" });
    });
    item.append(button);
    grid.append(item);
    if (focused && place === page.at) button.focus();
  });
}

function showEmpty() {
  const { counts } = page.state;
  const titles = { todo: "Nothing left to look at", doubtful: "No label is doubtful", decided: "Nothing is decided yet", all: "There are no images" };
  byId("empty-title").textContent = titles[page.view];
  byId("empty-words").textContent = page.view === "todo" && counts.doubtful
    ? `No label is suspected, and every image has one. ${counts.doubtful.toLocaleString("en")} labels are doubtful: the network contradicts them, as it often does for similar classes.`
    : "";
}

function showAccuracy() {
  const { accuracy, history } = page.state;
  byId("curve").toggleAttribute("hidden", history.length < 2);
  if (!accuracy) return;
  byId("accuracy").textContent = `${percent(accuracy.num_right / accuracy.num_labels)} right`;
  byId("accuracy-words").textContent =
    `of ${accuracy.num_labels.toLocaleString("en")} images, each classified without its own label (95\u202f% interval ${percent(accuracy.low)} to ${percent(accuracy.high)})`;
  if (history.length < 2) return;
  const x = (place) => (120 * place) / (history.length - 1);
  const floor = Math.min(...history.map((point) => point.low));
  const y = (share) => (40 * (1 - share)) / Math.max(1 - floor, 0.01);
  const points = (share) => history.map((point, place) => `${x(place).toFixed(1)},${y(share(point)).toFixed(1)}`);
  byId("curve").querySelector("polyline").setAttribute("points", points((point) => point.num_right / point.num_labels).join(" "));
  const band = [...points((point) => point.high), ...points((point) => point.low).reverse()];
  byId("curve").querySelector("path").setAttribute("d", `M${band.join("L")}Z`);
}

// ---- other and new classes

function openSearch() {
  if (byId("search").open) return;
  byId("name").value = "";
  page.picked = 0;
  showFound();
  byId("search").showModal();
  byId("name").focus();
}

function found() {
  const typed = byId("name").value.trim();
  const lower = typed.toLowerCase();
  const named = page.state.classes.filter(({ name }) => name.toLowerCase().includes(lower));
  named.sort((one, other) => other.name.toLowerCase().startsWith(lower) - one.name.toLowerCase().startsWith(lower));
  const options = named.slice(0, MOST_FOUND).map(({ name, count }) => ({ name, about: count.toLocaleString("en") }));
  if (typed && !page.state.classes.some(({ name }) => name === typed)) options.push({ name: typed, about: "new class", isNew: true });
  return options;
}

function showFound() {
  const options = found();
  page.picked = Math.max(0, Math.min(page.picked, options.length - 1));
  const list = byId("found");
  list.replaceChildren();
  options.forEach((option, place) => {
    const item = element("li");
    item.id = `option-${place}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(place === page.picked));
    item.append(breakable(element("span"), option.name), " ", element("span", "number", option.about));
    item.addEventListener("click", () => pick(option));
    list.append(item);
  });
  byId("name").setAttribute("aria-activedescendant", options.length ? `option-${page.picked}` : "");
  list.children[page.picked]?.scrollIntoView({ block: "nearest" });
}

async function pick(option) {
  if (!option) return;
  if (option.isNew) {
    try {
      const answer = await ask("/api/classes", { name: option.name });
      takeState(answer.state);
      option = { name: answer.name };
    } catch (error) {
      byId("search").close();
      showTrouble(error);
      return;
    }
  }
  byId("search").close();
  decide("label", option.name);
}

byId("name").addEventListener("input", () => {
  page.picked = 0;
  showFound();
});
byId("name").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    pick(found()[page.picked]);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    page.picked += event.key === "ArrowDown" ? 1 : -1;
    showFound();
  }
});
byId("close").addEventListener("click", () => byId("search").close());

// ---- keys and buttons

function columns() {
  const tops = [...byId("grid").children].map((item) => item.offsetTop);
  return Math.max(1, tops.filter((top) => top === tops[0]).length);
}

document.addEventListener("keydown", (event) => {
  if (!page.state || byId("search").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const card = page.cards[page.at];
  const key = event.key.toLowerCase();
  const steps = { arrowright: 1, arrowleft: -1, arrowdown: columns(), arrowup: -columns() };
  const inGrid = byId("grid").contains(event.target);
  if (/^[1-9]$/.test(key)) {
    const named = page.state.classes[Number(key) - 1];
    if (named) decide("label", named.name);
    else say(`There is no class ${key}.`);
  } else if (key === "k") decide("keep");
  else if (key === "d") decide("drop");
  else if (key === "u") undo();
  else if (key === "/" || key === "n") openSearch();
  else if (key === "enter" && (inGrid || !event.target.closest("button, a")) && card?.suggestion) decide("label", card.suggestion);
  else if (key in steps) move(steps[key]);
  else return;
  event.preventDefault();
});

byId("keep").addEventListener("click", () => decide("keep"));
byId("drop").addEventListener("click", () => decide("drop"));
byId("undo").addEventListener("click", undo);
byId("take").addEventListener("click", () => {
  const card = page.cards[page.at];
  if (card?.suggestion) decide("label", card.suggestion);
});
byId("more").addEventListener("click", pass);
byId("again").addEventListener("click", () => flush().then(() => (page.state ? refresh() : start())).catch(showTrouble));
byId("mine").addEventListener("click", () => {
  const { card, action, label } = page.conflicts.shift();
  page.done.push(card.image);
  enqueue({ image: card.image, action, label });
  showConflict();
});
byId("theirs").addEventListener("click", () => {
  page.conflicts.shift();
  showConflict();
});
byId("large").addEventListener("error", () => {
  byId("large").hidden = true;
  byId("gone").hidden = false;
});
for (const button of byId("views").children) {
  button.addEventListener("click", async () => {
    page.view = button.dataset.view;
    page.passed.clear();
    for (const other of byId("views").children) other.setAttribute("aria-pressed", String(other === button));
    await flush();
    load().catch(showTrouble);
  });
}
window.addEventListener("hashchange", () => location.reload());
window.addEventListener("beforeunload", (event) => {
  if (page.waiting.length) event.preventDefault();
});

async function start() {
  try {
    takeState(await ask("/api/state"));
    await load();
    byId("card").focus();
  } catch (error) {
    showTrouble(error);
  }
}

start();
poll();
