/**
 * The one line that says what is the matter: disconnected, refused, empty. The first that holds is shown.
 *
 * Law: it says what to do where there is something to do, and goes away by itself.
 */

const EMPTY_AFTER_MS = 2500; // a view that fills is no empty one
const TOLD_MS = 8000;

export class Notices {
  #client;
  #box;
  #text;
  #when; // not read out: it changes each second
  #button;
  #showWorld;
  #told = { text: "", until: 0 };
  #stirredAt = 0;
  #lost = null; // how the connection was lost; null while there is one
  #act = null;

  constructor(client, box, showWorld) {
    this.#client = client;
    this.#box = box;
    [this.#text, this.#when, this.#button] = box.querySelectorAll("span, button");
    this.#showWorld = showWorld;
    this.#button.addEventListener("click", () => this.#act?.());
  }

  /** Says something for a while. */
  tell(text) {
    this.#told = { text, until: performance.now() + TOLD_MS };
    this.show();
  }

  /** Something came, or was asked for: it is not time yet to call the view empty. */
  stir() {
    this.#stirredAt = performance.now();
    this.show();
  }

  show() {
    const now = performance.now();
    const { status } = this.#client;
    if (status.state === "closed" && this.#lost?.status !== status) this.#lost = { status, at: now };
    if (status.state === "open") this.#lost = null;
    const { text, when = "", label, act } = this.#present(now);
    this.#box.hidden = !text;
    if (this.#text.textContent !== text) this.#text.textContent = text; // or it would be read out again
    this.#when.textContent = when;
    this.#button.hidden = !act;
    if (act) this.#button.textContent = label;
    this.#act = act ?? null;
  }

  /** What to say now: { text, when, label and act of the button }. */
  #present(now) {
    const client = this.#client;
    if (this.#lost) {
      const { status, at } = this.#lost;
      const again = { label: "Try now", act: () => client.connect() };
      if (status.retry_ms === null) return { text: `Closed: ${status.reason || status.code}.`, ...again };
      const seconds = Math.ceil((at + status.retry_ms - now) / 1000);
      const when = client.status === status && seconds > 1 ? ` Next try in ${seconds} s.` : " Trying again.";
      return { text: client.stats.connections ? "The connection is lost; what you see is from before." : "The server does not answer.", when, ...again };
    }
    if (this.#told.until > now) return { text: this.#told.text };
    const isEmpty = client.status.state === "open" && !client.entities.size && now - this.#stirredAt > EMPTY_AFTER_MS;
    if (!isEmpty) return { text: "" };
    if (client.view.filter !== undefined && client.view.filter !== null) return { text: "Nothing here passes the filter." };
    return { text: "Nothing here yet. Zoom out, or publish something.", label: "Show the world", act: this.#showWorld };
  }
}
