/**
 * The figures beside the map: what comes in per second, how old it is, and whether the mirror is right.
 *
 * Law: everything shown here was counted in this page or told by the server; nothing is smoothed or made up.
 */

const HISTORY = 60; // seconds
const KINDS_MAX = 12;
const by = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export class Panel {
  #last = null; // the counts of a second ago
  #history = [];

  /** Takes the client's counts; to be called once a second. */
  show({ stats, mirror, status }, colors) {
    const now = performance.now();
    const last = this.#last ?? { ...stats, at: now - 1000 };
    const seconds = Math.max(0.2, (now - last.at) / 1000);
    const changes = Math.max(0, stats.changes - last.changes) / seconds;
    const deltas = Math.max(0, stats.deltas - last.deltas) / seconds;
    this.#last = { ...stats, at: now };
    this.#history = [...this.#history, changes].slice(-HISTORY);
    const isOpen = status.state === "open";
    by("changes").textContent = inShort(changes);
    by("pulse").textContent = isOpen ? `${inShort(changes)} changes/s` : "";
    by("lag").textContent = isOpen && stats.deltas ? inShort(stats.lag_ms) : "–";
    by("size").textContent = whole.format(mirror.entities.size);
    by("share").textContent = mirror.sampled < 1 ? `of ${inShort(mirror.total)}` : "";
    by("conflation").textContent = deltas ? inShort(changes / deltas) : "–";
    const [bytes, unit] = inBytes(Math.max(0, stats.bytes - last.bytes) / seconds);
    by("bytes").textContent = bytes;
    by("bytes-unit").textContent = unit;
    this.#digest(stats, isOpen);
    this.#spark(colors);
  }

  #digest({ agrees, pending, heals, checks }, isOpen) {
    const isKnown = isOpen && agrees !== null;
    const text = !isKnown ? "not checked yet" : agrees ? (pending ? `right, ${inShort(pending)} under way` : "right") : "differs, asking anew";
    by("digest-text").textContent = (isOpen ? text : "from before") + (heals ? ` · healed ${heals}×` : "");
    by("digest-lamp").className = `lamp ${!isKnown ? "" : agrees ? "good" : "bad"}`;
    by("digest").title = `${checks} comparisons with the server's digest of this view`;
  }

  #spark(colors) {
    const canvas = by("spark");
    const context = canvas.getContext("2d");
    const most = Math.max(1, ...this.#history);
    const places = this.#history.map((value, i) => [
      canvas.width - 4 - ((this.#history.length - 1 - i) / (HISTORY - 1)) * (canvas.width - 8),
      canvas.height - 6 - (value / most) * (canvas.height - 14),
    ]);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.beginPath();
    for (const place of places) context.lineTo(...place);
    context.strokeStyle = colors.accent;
    context.lineWidth = 4;
    context.lineJoin = context.lineCap = "round";
    context.stroke();
    context.lineTo(places.at(-1)[0], canvas.height);
    context.lineTo(places[0][0], canvas.height);
    context.globalAlpha = 0.13;
    context.fillStyle = colors.accent;
    context.fill();
    context.globalAlpha = 1;
  }
}

/** A number of at most four digits or so. */
function inShort(number) {
  return number < 100_000 ? whole.format(number) : short.format(number);
}

function inBytes(perSecond) {
  if (perSecond < 1000) return [whole.format(perSecond), "B/s"];
  if (perSecond < 1e6) return [(perSecond / 1000).toFixed(perSecond < 1e4 ? 1 : 0), "kB/s"];
  return [(perSecond / 1e6).toFixed(1), "MB/s"];
}

/** The chips that turn kinds on and off; counted from the mirror. */
export class Kinds {
  hidden = new Set();
  #known = new Map(); // kind -> its button
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** The filter that hides what is turned off; undefined where nothing is. */
  get filter() {
    return this.hidden.size ? ["!", ["in", ["kind"], ["literal", [...this.hidden]]]] : undefined;
  }

  /** Counts the kinds of the mirror. */
  show(entities, colors) {
    const counts = new Map();
    for (const { kind } of entities.values()) if (kind) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    for (const kind of counts.keys()) if (!this.#known.has(kind) && this.#known.size < KINDS_MAX) this.#add(kind);
    for (const [kind, button] of this.#known) {
      button.querySelector("i").textContent = this.hidden.has(kind) ? "" : whole.format(counts.get(kind) ?? 0);
      button.querySelector(".swatch").style.background = colors.ofKind(kind);
    }
    const others = [...counts.keys()].filter((kind) => !this.#known.has(kind)).length;
    by("kinds-section").hidden = this.#known.size === 0;
    by("kinds-more").hidden = others === 0;
    by("kinds-more").textContent = `and ${whole.format(others)} more`;
  }

  #add(kind) {
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    const name = document.createElement("span");
    swatch.className = "swatch";
    name.textContent = button.title = kind;
    button.append(swatch, name, document.createElement("i"));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!this.hidden.delete(kind)) this.hidden.add(kind);
      button.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
      this.#onChange();
    });
    const after = [...this.#known.keys()].sort().find((other) => other > kind);
    by("kinds").insertBefore(button, this.#known.get(after) ?? null);
    this.#known.set(kind, button);
  }
}
