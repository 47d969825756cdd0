/**
 * The events that no server has answered for, oldest first: one key of storage each, because tabs that read and write
 * one list would lose events of one another.
 *
 * At most MAX_EVENTS events and MAX_BYTES bytes are kept. Beyond that the oldest are dropped, and counted.
 */
import { keys, read, remove, write } from "./storage";
import type { Message, Preferences, Purpose } from "./types";

const MAX_EVENTS = 500;
const MAX_BYTES = 500_000;
const MAX_EVENT_BYTES = 32 * 1024; // the collector refuses larger ones
const QUEUE = "q.";
const DROPPED = "dropped";

const addedHere = new Set<string>();
let serial = 0;

export const queued = (): string[] => keys(QUEUE);
/** The events that this page added. */
export const queuedHere = (): string[] => queued().filter((key) => addedHere.has(key));
export const messageIdOf = (key: string): string => key.slice(key.lastIndexOf(".") + 1);

export function add(message: Message): void {
  const text = asciiJson(message);
  if (text.length > MAX_EVENT_BYTES) {
    addDropped(1);
    return;
  }
  // Of equal length, so that keys sort by time.
  const key = `${QUEUE}${Date.now().toString(36)}.${(serial++).toString(36).padStart(4, "0")}.${message.messageId}`;
  write(key, text);
  addedHere.add(key);
  dropOldest();
}

/** The server has answered for this event. */
export function settle(key: string): void {
  remove(key);
  addedHere.delete(key);
}

/** How many events were dropped since a server last took the count. */
export const droppedCount = (): number => Number(read(DROPPED));

export function addDropped(count: number): void {
  const sum = droppedCount() + count;
  if (sum > 0) write(DROPPED, String(sum));
  else remove(DROPPED);
}

/** Take a purpose that was refused from each event, and drop the events that have none left. */
export function restrict(allowed: Preferences): void {
  for (const key of queued()) {
    const text = read(key);
    if (!text) continue; // another tab has settled it
    const message: Message = JSON.parse(text);
    const preferences = message.context.consent.categoryPreferences;
    for (const purpose of Object.keys(preferences) as Purpose[]) preferences[purpose] &&= allowed[purpose];
    if (Object.values(preferences).includes(true)) write(key, asciiJson(message));
    else settle(key);
  }
}

function dropOldest(): void {
  let bytes = 0;
  const beyond = queued()
    .reverse()
    .filter((key, index) => {
      bytes += read(key)?.length ?? 0;
      return index >= MAX_EVENTS || bytes > MAX_BYTES;
    });
  beyond.forEach(settle);
  if (beyond.length) addDropped(beyond.length);
}

/** JSON without characters beyond ASCII, so that its length is its size in bytes. */
function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u0080-\uffff]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}
