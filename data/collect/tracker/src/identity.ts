/** Who acts: the browser (anonymous id), the account (user id) and the visit (session id). */
import { read, remove, write } from "./storage";

const ANONYMOUS_MS = 395 * 86_400_000; // thirteen months, then it is another browser
const SESSION_MS = 30 * 60_000; // without an event
const ANONYMOUS = "anonymous";
const USER = "user";
const SESSION = "session";

/** A random UUID. `crypto.randomUUID` exists on https pages only. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40; // version 4
  bytes[8] = (bytes[8]! & 0x3f) | 0x80; // variant of RFC 9562
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export const anonymousId = (): string => idOfAge(ANONYMOUS, ANONYMOUS_MS, false);
export const sessionId = (): string => idOfAge(SESSION, SESSION_MS, true);
export const userId = (): string | undefined => read(USER) ?? undefined;

/** Another account on the same browser is another person: it does not get the anonymous id of the first. */
export function setUser(id: string): void {
  const before = userId();
  if (before && before !== id) reset();
  write(USER, id);
}

export function reset(): void {
  [ANONYMOUS, USER, SESSION].forEach(remove);
}

/** The id under a key, or a new one if it is too old. `renews`: its age counts from its last use. */
function idOfAge(key: string, maxAgeMs: number, renews: boolean): string {
  const now = Date.now();
  const [before, since] = (read(key) ?? "").split(" ");
  const id = before && now - Number(since) < maxAgeMs ? before : uuid();
  if (renews || id !== before) write(key, `${id} ${now}`);
  return id;
}
