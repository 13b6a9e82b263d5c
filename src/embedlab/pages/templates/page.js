"use strict";
// What the scripts of all pages share.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const withText = (kind, text, name = "") => {
  const element = document.createElement(kind);
  element.textContent = text;
  element.className = name;
  return element;
};
