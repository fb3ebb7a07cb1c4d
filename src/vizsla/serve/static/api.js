"use strict";

// The description of the interface in, a page that people can read out.

function pairs(title, entries) {
  if (!entries.length) return [];
  const list = element("dl", "pairs");
  for (const [name, meaning] of entries) {
    const row = element("div");
    const title = element("dt");
    for (const part of name.split(/(?<=\/)/)) title.append(part, document.createElement("wbr"));
    row.append(title, element("dd", "", meaning));
    list.append(row);
  }
  return [element("h4", "", title), list];
}

function call(path, method, operation) {
  const block = element("article", "call");
  const title = element("h3");
  title.append(element("span", "method", method.toUpperCase()), path);
  block.append(title, element("p", "", operation.summary));
  if (operation.description) block.append(element("p", "aside", operation.description));
  const kinds = Object.keys(operation.requestBody?.content ?? {});
  block.append(
    ...pairs("Query", (operation.parameters ?? []).map((one) => [one.name, one.description])),
    ...pairs("Body", kinds.map((kind) => [kind, kind.startsWith("multipart") ? "Several images." : "One image."])),
    ...(method === "post" ? pairs("Status", Object.entries(operation.responses).map(([status, one]) => [status, one.description])) : []),
  );
  return block;
}

async function show() {
  const example = byId("example");
  example.textContent = example.textContent.replaceAll("http://127.0.0.1:8000", location.origin);
  const description = await (await fetch("/openapi.json")).json();
  byId("lead").textContent = description.info.description;
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      byId("calls").append(call(path, method, operation));
    }
  }
}

show().catch(() => {
  const trouble = byId("trouble");
  trouble.textContent = "The server does not answer. Is vizsla serve still running?";
  trouble.hidden = false;
});
