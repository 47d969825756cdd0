/**
 * Sending the queue. An event leaves it only when the server has answered for it. The server ignores a message id that
 * it knows, so sending again does no harm.
 *
 * A request has a body of plain text and no header of our own, so browsers send it without a preflight. It is
 * `keepalive`: once under way, it survives the page.
 */
import { allowed } from "./consent";
import { exclusively } from "./lock";
import { addDropped, droppedCount, messageIdOf, queued, queuedHere, settle } from "./queue";
import { read, remove, write } from "./storage";
import type { Options } from "./types";

const BATCH_BYTES = 33_000; // the largest event fits
const KEEPALIVE_BYTES = 60_000; // browsers allow 65,536 for all requests under way
const ENVELOPE_BYTES = 300;
const TIMEOUT_MS = 20_000;
const MAX_PAUSE_MS = 300_000;
const MAX_RETRY_AFTER_MS = 86_400_000;
const RETRY = "retry"; // "<failures> <time of the next try> <status, 0: no answer>"

type Batch = Map<string, string>; // key in the queue -> the event as JSON
type Results = Record<string, { status?: string } | undefined>;

let options: Options;
let timer = 0;
let isSending = false;
const underWay: Batch = new Map();
const requests = new Set<AbortController>();

export function start(given: Options): void {
  options = given;
  addEventListener("online", () => {
    if (retryState().status === 0) remove(RETRY); // the failures were those of our network
    sendSoon(0);
  });
}

/** Send the queue after some time, by default the time in which events wait for others. */
export function sendSoon(ms = options.flushMs): void {
  if (timer && ms > 0) return;
  clearTimeout(timer);
  timer = window.setTimeout(send, ms);
}

/** The page may be closing: send what it added, as far as the browser lets requests outlive a page. */
export function sendNow(): void {
  if (!isAllowed()) return;
  const batch = take(queuedHere(), KEEPALIVE_BYTES);
  if (!batch.size) return;
  if ("keepalive" in Request.prototype) {
    void post(batch);
  } else {
    // There is no answer: it counts as under way for as long as a request may take, then it is sent again.
    navigator.sendBeacon(url(), bodyOf(batch));
    begin(batch);
    setTimeout(() => end(batch), TIMEOUT_MS);
  }
}

/** Cancel what is under way. */
export function stop(): void {
  clearTimeout(timer);
  timer = 0;
  requests.forEach((request) => request.abort());
}

async function send(): Promise<void> {
  timer = 0;
  if (!isSending && isAllowed()) {
    isSending = true;
    await exclusively(async () => {
      for (let batch; isAllowed() && (batch = take(queued(), BATCH_BYTES)).size; ) await post(batch);
    });
    isSending = false;
  }
  if (allowed() && navigator.onLine && queued().length) {
    sendSoon(Math.max(options.flushMs, retryState().time - Date.now()));
  }
}

/** Whether the person, the network and the server allow a request now. */
const isAllowed = (): boolean => allowed() !== null && navigator.onLine && Date.now() >= retryState().time;

/** The first of these events that are not under way, as many as fit beside those that are. */
function take(keys: string[], limit: number): Batch {
  const batch: Batch = new Map();
  let room = KEEPALIVE_BYTES;
  underWay.forEach((text) => (room -= text.length));
  room = Math.min(room, limit) - ENVELOPE_BYTES;
  for (const key of keys) {
    const text = read(key);
    if (!text || underWay.has(key)) continue;
    room -= text.length + 1;
    if (room < 0) break;
    batch.set(key, text);
  }
  return batch;
}

const begin = (batch: Batch): void => batch.forEach((text, key) => underWay.set(key, text));
const end = (batch: Batch): void => batch.forEach((_, key) => underWay.delete(key));
const url = (): string => options.endpoint.replace(/\/$/, "") + "/v1/b";

/** Segment's batch, and how many events were dropped because the queue was full. */
function bodyOf(batch: Batch): string {
  const dropped = droppedCount() || undefined;
  const rest = JSON.stringify({ sentAt: new Date().toISOString(), writeKey: options.writeKey, dropped });
  return `{"batch":[${[...batch.values()].join()}],${rest.slice(1)}`;
}

async function post(batch: Batch): Promise<void> {
  const dropped = droppedCount();
  const request = new AbortController();
  const timeout = setTimeout(() => request.abort(), TIMEOUT_MS);
  requests.add(request);
  begin(batch);
  try {
    const response = await fetch(url(), {
      method: "POST",
      body: bodyOf(batch),
      keepalive: true,
      credentials: "omit",
      signal: request.signal,
    });
    const answer = response.ok ? await response.json() : await response.json().catch(() => null);
    if (allowed()) receive(batch, response, answer?.results ?? {}, dropped);
  } catch {
    if (allowed()) pause(0, null); // no answer, or one that no collector has made
  }
  clearTimeout(timeout);
  requests.delete(request);
  end(batch);
}

/** Settle the events that have their final answer: a verdict, or a status, that does not want them again. */
function receive(batch: Batch, { status, headers }: Response, results: Results, dropped: number): void {
  const mayPass = status >= 500 || status === 408 || status === 429;
  let again = 0;
  for (const key of batch.keys()) {
    const verdict = results[messageIdOf(key)]?.status;
    if (verdict ? verdict === "retry" || verdict === "limited" : mayPass) again++;
    else settle(key);
  }
  if (again < batch.size && dropped) addDropped(-dropped);
  if (again) pause(status, headers.get("Retry-After"));
  else remove(RETRY);
}

function retryState(): { failures: number; time: number; status?: number } {
  const [failures, time, status] = (read(RETRY) ?? "0 0").split(" ").map(Number);
  return { failures: failures!, time: time!, status };
}

/** Put off the next request: twice as long after each failure, with jitter, and at least as long as the server asks. */
function pause(status: number, retryAfter: string | null): void {
  const { failures } = retryState();
  const own = Math.min(options.retryMs * 2 ** failures, MAX_PAUSE_MS) * (0.5 + Math.random());
  const asked = Number(retryAfter) * 1000 || Date.parse(retryAfter ?? "") - Date.now() || 0;
  const ms = Math.max(own, Math.min(asked, MAX_RETRY_AFTER_MS));
  write(RETRY, `${failures + 1} ${Math.ceil(Date.now() + ms)} ${status}`);
}
