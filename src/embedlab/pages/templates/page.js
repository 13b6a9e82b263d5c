"use strict";
// What the scripts of all pages share.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
// An element with a text, a node, or a list of both.
const make = (kind, content = [], name = "") => {
  const element = document.createElement(kind);
  element.append(...[content].flat());
  element.className = name;
  return element;
};
