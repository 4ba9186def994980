// Building elements. Everything from the server becomes text, never markup.

/** An element with a class, text or children, and a tooltip if there is one. */
export function element(tag, className, content = [], tooltip = "") {
  const made = document.createElement(tag);
  made.className = className;
  if (tooltip) made.title = tooltip;
  if (Array.isArray(content)) made.append(...content.filter((child) => child != null));
  else made.textContent = String(content);
  return made;
}

/** Loads the style sheet beside this file, once. */
export function loadStyle(name) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL(name, import.meta.url).href;
  document.head.append(link);
}

/** What should be a list, as a list; a missing field is an empty one. */
export function list(value) {
  return Array.isArray(value) ? value : [];
}

/** What should be an object, as an object. */
export function record(value) {
  return value !== null && typeof value === "object" ? value : {};
}
