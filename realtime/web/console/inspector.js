/** The card of one entity: what it is, when it was reported last, and why it is gone if it is. */

const LONG = 60; // characters; such a value gets lines of its own
const by = (id) => document.getElementById(id);
const GONE = { view: "no longer in view", moved: "moved out of view", filtered: "no longer passes the filter", reset: "not in view", denied: "no longer yours to see" };

export class Inspector {
  id = null;
  follows = false;
  #feature = null; // as shown
  #seen = 0;
  #gone = "";

  constructor(onFollow, onClose) {
    by("entity-close").addEventListener("click", onClose);
    by("entity-follow").addEventListener("click", () => {
      this.setFollows(!this.follows);
      onFollow();
    });
  }

  setFollows(follows) {
    this.follows = follows;
    by("entity-follow").setAttribute("aria-pressed", String(follows));
  }

  /** Shows an entity, or none. */
  show(feature, colors) {
    if (feature?.id !== this.id) this.setFollows(false);
    by("inspector").hidden = !feature;
    this.id = feature?.id ?? null;
    this.#feature = feature;
    this.#gone = "";
    if (!feature) return;
    this.#seen = performance.now();
    by("entity-name").textContent = String(feature.properties.name ?? feature.properties.label ?? feature.id);
    this.paint(colors);
    by("entity-facts").replaceChildren(...factsOf(feature).flatMap(rowOf));
    this.age();
  }

  paint(colors) {
    if (this.#feature) by("entity-swatch").style.background = colors.ofKind(this.#feature.kind ?? "");
  }

  /** Shows what became of the entity: `feature` is what is held of it, `reason` why nothing is. */
  update(feature, reason, colors) {
    if (feature && feature !== this.#feature) this.show(feature, colors);
    if (!feature && reason) this.#gone = GONE[reason] ?? reason;
    this.age();
  }

  /** Says how long ago the last report came. */
  age() {
    if (this.id === null) return;
    const seconds = Math.round((performance.now() - this.#seen) / 1000);
    by("entity-age").textContent = this.#gone || (seconds < 1 ? "just now" : `${seconds.toLocaleString("en")} s ago`);
  }
}

function factsOf({ id, kind, properties, geometry, version }) {
  const facts = [["id", id]];
  if (kind) facts.push(["kind", kind]);
  for (const [name, value] of Object.entries(properties)) facts.push([name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  if (geometry.type === "Point") facts.push(["position", geometry.coordinates.map((c) => Number(c.toFixed(5))).join(", ")]);
  else facts.push(["geometry", geometry.type]);
  facts.push(["version", String(version)]);
  return facts;
}

function rowOf([name, value]) {
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = name;
  dd.textContent = value;
  dd.classList.toggle("long", value.length > LONG);
  return [dt, dd];
}
