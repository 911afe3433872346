/**
 * The filter field: JSON as one types it, and errors at their place.
 *
 * Law: the server alone judges a filter. Here only JSON is read, and the place that an error opens with
 * (`filter[2][1]: …`) is found in the text.
 */

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
      event.stopPropagation();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.apply();
    });
  }

  get text() {
    return this.field.value;
  }

  /** Shows a filter that was set from elsewhere. */
  show(filter) {
    this.field.value = filter === undefined || filter === null ? "" : JSON.stringify(filter);
    this.#mark(null, "");
  }

  apply() {
    this.#mark(null, "");
    const text = this.text.trim();
    if (!text) return this.#onApply(undefined);
    try {
      this.#onApply(JSON.parse(text));
    } catch (error) {
      const at = Number(/position (\d+)/.exec(error.message)?.[1] ?? text.length - 1);
      const offset = this.text.indexOf(text) + Math.min(at, text.length - 1);
      this.#mark([offset, offset + 1], `Not JSON: ${error.message}`);
    }
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

/** Returns [start, end] of the element at a path of array indices in valid JSON text; the innermost that is there. */
export function spanOf(text, path) {
  let at = 0;
  const skip = () => {
    while (/\s/.test(text[at] ?? "")) at++;
  };
  const pass = () => {
    skip();
    const start = at;
    const token = /^(?:"(?:[^"\\]|\\.)*"|[^\s[\]{},:"]+)/.exec(text.slice(at));
    if (token) {
      at += token[0].length;
      return [start, at];
    }
    for (let depth = 0; at < text.length; ) {
      const string = /^"(?:[^"\\]|\\.)*"/.exec(text.slice(at));
      if (string) at += string[0].length;
      else {
        if ("[{".includes(text[at])) depth++;
        if ("]}".includes(text[at])) depth--;
        at++;
      }
      if (depth <= 0) break;
    }
    return [start, at];
  };
  let span = pass();
  for (const index of path) {
    if (text[span[0]] !== "[") return span;
    at = span[0] + 1;
    let inner = null;
    for (let i = 0; i <= index; i++) {
      skip();
      if (at >= span[1] || text[at] === "]") return span;
      inner = pass();
      skip();
      if (text[at] === ",") at++;
    }
    span = inner;
  }
  return span;
}
