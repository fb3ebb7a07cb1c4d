"use strict";

// What the scripts of all pages share; each page loads it first.

const byId = (id) => document.getElementById(id);

function element(name, className, words) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (words !== undefined) made.textContent = words;
  return made;
}

// A name that may break after its underscores, hyphens and slashes, as the report has them.
function breakable(node, name) {
  node.replaceChildren();
  for (const part of name.split(/(?<=[/_-])(?=[^/_-])/)) node.append(part, document.createElement("wbr"));
  return node;
}

function say(words) {
  byId("status").textContent = words;
}
