/**
 * The figures beside the map: what comes in per second, how old it is, and whether the mirror is right.
 *
 * Law: everything shown here was counted in this page or told by the server; nothing is smoothed or made up.
 */

const HISTORY = 60;
const by = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export class Panel {
  #last = null; // the counts of a second ago
  #history = [];

  /** Takes the client's counts, once a second. */
  show(client, colors) {
    const { stats, mirror } = client;
    const now = performance.now();
    const last = this.#last ?? { ...stats, at: now - 1000 };
    const seconds = Math.max(0.2, (now - last.at) / 1000);
    const changes = Math.max(0, stats.changes - last.changes) / seconds;
    const deltas = Math.max(0, stats.deltas - last.deltas) / seconds;
    this.#last = { ...stats, at: now };
    this.#history = [...this.#history, changes].slice(-HISTORY);
    by("changes").textContent = whole.format(changes);
    by("lag").textContent = stats.deltas ? whole.format(stats.lag_ms) : "–";
    by("size").textContent = whole.format(mirror.entities.size);
    by("share").textContent = mirror.sampled < 1 ? `of ${whole.format(mirror.total)}` : "";
    by("conflation").textContent = deltas ? whole.format(changes / deltas) : "–";
    const [bytes, unit] = inBytes(Math.max(0, stats.bytes - last.bytes) / seconds);
    by("bytes").textContent = bytes;
    by("bytes-unit").textContent = unit;
    this.#digest(stats);
    this.#spark(colors);
  }

  #digest({ agrees, pending, heals, checks }) {
    const text =
      agrees === null ? "not checked yet" : agrees ? (pending ? `right, ${whole.format(pending)} to come` : "right") : "differs, asking anew";
    by("digest-text").textContent = text + (heals ? ` · healed ${heals}×` : "");
    by("digest-lamp").className = `lamp ${agrees === null ? "" : agrees ? "good" : "bad"}`;
    by("digest").title = `${checks} comparisons with the server's digest of this view`;
  }

  #spark(colors) {
    const canvas = by("spark");
    const context = canvas.getContext("2d");
    const most = Math.max(1, ...this.#history);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.beginPath();
    this.#history.forEach((value, i) => {
      const x = canvas.width - 2 - ((this.#history.length - 1 - i) / (HISTORY - 1)) * (canvas.width - 4);
      const y = canvas.height - 3 - (value / most) * (canvas.height - 7);
      if (i) context.lineTo(x, y);
      else context.moveTo(x, y);
    });
    context.strokeStyle = colors.accent;
    context.lineWidth = 2.5;
    context.lineJoin = "round";
    context.stroke();
  }
}

function inBytes(perSecond) {
  if (perSecond < 1000) return [whole.format(perSecond), "B/s"];
  if (perSecond < 1e6) return [(perSecond / 1000).toFixed(perSecond < 1e4 ? 1 : 0), "kB/s"];
  return [(perSecond / 1e6).toFixed(1), "MB/s"];
}

/** The card of one entity. */
export class Inspector {
  id = null;
  follows = false;
  #seen = 0;

  constructor(onFollow, onClose) {
    by("entity-close").addEventListener("click", onClose);
    by("entity-follow").addEventListener("click", () => {
      this.follows = !this.follows;
      by("entity-follow").setAttribute("aria-pressed", String(this.follows));
      onFollow();
    });
  }

  /** Shows an entity, or none. */
  show(feature, colors) {
    by("inspector").hidden = !feature;
    if (!feature) {
      this.id = null;
      this.follows = false;
      by("entity-follow").setAttribute("aria-pressed", "false");
      return;
    }
    this.id = feature.id;
    this.#seen = performance.now();
    const { kind, properties, geometry, version } = feature;
    by("entity-name").textContent = String(properties.name ?? properties.label ?? feature.id);
    by("entity-swatch").style.background = colors.ofKind(kind ?? "");
    const facts = [["id", feature.id]];
    if (kind) facts.push(["kind", kind]);
    for (const [name, value] of Object.entries(properties)) facts.push([name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
    if (geometry.type === "Point") facts.push(["position", geometry.coordinates.map((c) => Number(c.toFixed(5))).join(", ")]);
    else facts.push(["geometry", geometry.type]);
    facts.push(["version", String(version)]);
    by("entity-facts").replaceChildren(
      ...facts.flatMap(([name, value]) => {
        const dt = document.createElement("dt");
        const dd = document.createElement("dd");
        dt.textContent = name;
        dd.textContent = value;
        return [dt, dd];
      }),
    );
    this.age();
  }

  /** Says how long ago the last report came. */
  age() {
    if (this.id === null) return;
    const seconds = Math.round((performance.now() - this.#seen) / 1000);
    by("entity-age").textContent = seconds < 1 ? "just now" : `${whole.format(seconds)} s ago`;
  }

  /** The entity left the view. */
  gone(reason) {
    by("entity-age").textContent = `left: ${reason}`;
  }
}

/** The chips that turn kinds on and off; counted from the mirror. */
export class Kinds {
  hidden = new Set();
  #known = new Map(); // kind -> its button
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Counts the kinds of the mirror. */
  show(entities, colors) {
    const counts = new Map();
    for (const { kind } of entities.values()) if (kind) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    for (const kind of counts.keys()) if (!this.#known.has(kind) && this.#known.size < 12) this.#add(kind);
    for (const [kind, button] of this.#known) {
      button.querySelector("i").textContent = this.hidden.has(kind) ? "" : whole.format(counts.get(kind) ?? 0);
      button.querySelector(".swatch").style.background = colors.ofKind(kind);
    }
    by("kinds-section").hidden = this.#known.size === 0;
  }

  #add(kind) {
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    button.append(swatch, kind, document.createElement("i"));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!this.hidden.delete(kind)) this.hidden.add(kind);
      button.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
      this.#onChange();
    });
    this.#known.set(kind, button);
    by("kinds").append(button);
  }
}
