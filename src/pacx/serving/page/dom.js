// Two helpers around the document. Text always goes in as text, never as markup: names and messages come from outside.

export const byId = (id) => document.getElementById(id);

// element("td", { class: "number" }, "0.93"): children are nodes or strings.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
