/**
 * The filter field: JSON as one types it, and errors at their place.
 *
 * Law: the server alone judges a filter. Here only JSON is read, and the place that an error opens with
 * (`filter[2][1]: …`) is found in the text.
 */

const SPACE = /[ \t\n\r]*/y;
const SCALAR = /"(?:[^"\\\0-\x1f]|\\(?:["\\/bfnrt]|u[\dA-Fa-f]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[Ee][+-]?\d+)?|true|false|null/y;

export class FilterEditor {
  #onApply;

  constructor({ box, field, marks, error, apply, clear }, onApply) {
    Object.assign(this, { box, field, marks, error });
    this.#onApply = onApply;
    apply.addEventListener("click", () => this.apply());
    clear.addEventListener("click", () => {
      field.value = "";
      this.apply();
    });
    field.addEventListener("input", () => this.#mark(null, ""));
    field.addEventListener("scroll", () => (marks.scrollTop = field.scrollTop));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.apply();
    });
  }

  get text() {
    return this.field.value;
  }

  apply() {
    this.#mark(null, "");
    if (!this.text.trim()) return this.#onApply(undefined);
    try {
      outline(this.text);
    } catch (error) {
      const at = Math.min(error.at ?? 0, this.text.trimEnd().length - 1);
      return this.#mark([at, at + 1], `Not JSON: ${error.message}`);
    }
    this.#onApply(JSON.parse(this.text));
  }

  /** Shows what the server said of the filter. */
  refuse(message) {
    const [, place] = /^filter((?:\[\d+\])*)/.exec(message) ?? [];
    const path = [...(place ?? "").matchAll(/\[(\d+)\]/g)].map((match) => Number(match[1]));
    this.#mark(spanOf(this.text, path), message);
  }

  #mark(span, message) {
    this.error.textContent = message;
    this.box.classList.toggle("wrong", Boolean(message));
    this.field.setAttribute("aria-invalid", String(Boolean(message)));
    this.marks.replaceChildren();
    if (!span) return;
    const mark = document.createElement("mark");
    mark.textContent = this.text.slice(span[0], span[1]) || " ";
    this.marks.append(this.text.slice(0, span[0]), mark, this.text.slice(span[1]));
    this.marks.scrollTop = this.field.scrollTop;
  }
}

/** Returns [start, end] of the element at a path of array indices; the innermost that is there. Null if it is no JSON. */
function spanOf(text, path) {
  let part;
  try {
    part = outline(text);
  } catch {
    return null; // it was changed since it was sent
  }
  for (const index of path) {
    if (!part.items[index]) break;
    part = part.items[index];
  }
  return [part.start, part.end];
}

/** Reads JSON; returns where its values are: { start, end, items }, down to the scalars. Throws a SyntaxError with `at`. */
function outline(text) {
  let at = 0;
  const take = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at += found[0].length;
    return found !== null;
  };
  const fail = (message) => {
    throw Object.assign(new SyntaxError(at < text.length ? message : "it ends too early"), { at });
  };
  const expect = (character) => {
    take(SPACE);
    if (text[at] !== character) fail(`"${character}" is missing`);
    at += 1;
  };
  const readItems = (close) => {
    const items = [];
    at += 1;
    take(SPACE);
    while (text[at] !== close) {
      if (items.length) expect(",");
      take(SPACE);
      if (close === "}") {
        if (text[at] !== '"' || !take(SCALAR)) fail("a name in quotes is missing");
        expect(":");
      }
      items.push(read());
      take(SPACE);
      if (text[at] !== close && text[at] !== ",") fail(`"," or "${close}" is missing`);
    }
    at += 1;
    return items;
  };
  const read = () => {
    take(SPACE);
    const start = at;
    let items = [];
    if (text[at] === "[") items = readItems("]");
    else if (text[at] === "{") items = readItems("}");
    else if (!take(SCALAR)) fail(text[at] === '"' ? "a text that does not end" : "a value is missing");
    return { start, end: at, items };
  };
  const whole = read();
  take(SPACE);
  if (at < text.length) fail("it ends before this");
  return whole;
}
