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
  #button;
  #showWorld;
  #told = { text: "", until: 0 };
  #stirredAt = 0;
  #lost = null; // how the connection was lost; null while there is one
  #act = null;

  constructor(client, box, text, button, showWorld) {
    this.#client = client;
    this.#box = box;
    this.#text = text;
    this.#button = button;
    this.#showWorld = showWorld;
    button.addEventListener("click", () => this.#act?.());
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
    const [text, label, act] = this.#present(now);
    if (this.#box.hidden === Boolean(text)) this.#box.hidden = !text;
    if (text && this.#text.textContent !== text) this.#text.textContent = text;
    this.#button.hidden = !act;
    if (act) this.#button.textContent = label;
    this.#act = act;
  }

  #present(now) {
    const client = this.#client;
    if (this.#lost) {
      const { status, at } = this.#lost;
      const { retry_ms, reason, code } = status;
      if (retry_ms === null) return [`Closed: ${reason || code}.`, "Try now", () => client.connect()];
      const seconds = Math.ceil((at + retry_ms - now) / 1000);
      const when = client.status === status && seconds > 1 ? `Next try in ${seconds} s.` : "Trying again.";
      const what = client.stats.connections ? "The connection is lost; what you see is from before." : "The server does not answer.";
      return [`${what} ${when}`, "Try now", () => client.connect()];
    }
    if (this.#told.until > now) return [this.#told.text];
    const isEmpty = client.status.state === "open" && !client.entities.size && now - this.#stirredAt > EMPTY_AFTER_MS;
    if (!isEmpty) return [""];
    if (client.view.filter !== undefined && client.view.filter !== null) return ["Nothing here passes the filter."];
    return ["Nothing here yet. Zoom out, or publish something.", "Show the world", this.#showWorld];
  }
}
