/**
 * The surroundings of a client, by hand: a clock that is advanced, sockets that are opened and fed, a tab that is hidden.
 *
 * Law: no time passes and nothing happens here but what a test says.
 */

const modulePath = process.env.REALTIME_CLIENT_MODULE;
if (!modulePath) throw new Error("run these tests with pytest: it says where the client is");

/** The module under test. */
export const subject = await import(modulePath);

/** Lets what has been promised happen. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class FakeClock {
  time = 1000;
  chance = 0.5; // what `random()` returns
  #timers = new Map();
  #last = 0;

  now = () => this.time;
  wall = () => 1_700_000_000_000 + this.time;
  random = () => this.chance;
  setTimeout = (call, ms) => {
    this.#timers.set(++this.#last, { at: this.time + ms, call });
    return this.#last;
  };
  clearTimeout = (timer) => this.#timers.delete(timer);

  /** How many timers are set. */
  get waiting() {
    return this.#timers.size;
  }

  /** Lets milliseconds pass, and what is due in them happen in its order. */
  async advance(ms) {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].call();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

/** A tab. */
export class FakeDocument extends EventTarget {
  visibilityState = "visible";
  listeners = 0;

  addEventListener(...args) {
    this.listeners += 1;
    super.addEventListener(...args);
  }

  removeEventListener(...args) {
    this.listeners -= 1;
    super.removeEventListener(...args);
  }

  turn(visibilityState) {
    this.visibilityState = visibilityState;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

export const WELCOME = {
  type: "welcome",
  protocol: 1,
  session: "s",
  user: null,
  node: "node-0",
  epoch: "e",
  world: "w",
  limits: { message_bytes: 256 * 1024, have_entities: 4000, views_per_s: 20, entities_per_view: 10_000 },
};

/** A client with everything around it; `net.socket` is its newest socket. */
export class FakeNet {
  clock = new FakeClock();
  document = new FakeDocument();
  sockets = [];
  events = [];

  constructor(options = {}) {
    const net = this;
    this.WebSocket = class {
      readyState = 0;
      sent = [];
      closes = [];

      constructor(url, protocols) {
        Object.assign(this, { url, protocols });
        net.sockets.push(this);
      }
      send(text) {
        if (this.readyState !== 1) throw new Error("sent before the socket was open");
        this.sent.push({ at: net.clock.time, ...JSON.parse(text) });
      }
      close(code) {
        this.readyState = 2;
        this.closes.push(code);
      }
    };
    const env = { ...this.clock, document: this.document, ...options.env };
    const url = options.url ?? "ws://127.0.0.1:1/ws";
    this.client = new subject.Client(url, { WebSocket: this.WebSocket, ...options, env });
    for (const name of ["enter", "move", "patch", "leave", "change", "status", "error", "stats", "message"]) {
      this.client.on(name, (...event) => this.events.push([name, ...event]));
    }
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Messages of a type that the newest socket was given. */
  sent(type) {
    return this.socket.sent.filter((message) => message.type === type);
  }

  /** What events of a name carried. */
  heard(name) {
    return this.events.filter((event) => event[0] === name).map((event) => event[1]);
  }

  open() {
    this.socket.readyState = 1;
    this.socket.onopen({});
  }

  /** The server sends messages. */
  serve(...messages) {
    for (const message of messages) this.socket.onmessage({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }

  /** The connection is closed from the other side, or cut. */
  lose(code, reason = "") {
    this.socket.readyState = 3;
    this.socket.onclose({ code, reason });
  }

  /** Connects, is welcomed, and sends the first view. */
  async start(welcome = {}) {
    await settle();
    this.open();
    this.serve({ ...WELCOME, ...welcome });
  }

  /** As `start`, and the mirror holds points of these ids. */
  async startWith(...ids) {
    await this.start();
    this.serve({
      type: "delta",
      seq: 1,
      reset: true,
      view: this.sent("view").at(-1)?.id,
      enter: ids.map((id) => point(id)),
      total: ids.length,
      sampled: 1,
    });
  }
}

/** An entity, as it enters. */
export function point(id, version = 1, coordinates = [1, 2], properties = {}) {
  return { type: "Feature", id, version, kind: "bus", geometry: { type: "Point", coordinates }, properties };
}
