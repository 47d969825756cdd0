/** How a person meets the item of a page: how far it is scrolled, and how long it is visible while the person is active. */
import { allowed } from "./consent";
import type { Properties } from "./types";

const TICK_MS = 1_000;
const IDLE_MS = 30_000; // without a sign of the person
const MIN_DWELL_MS = 1_000;
const DEPTHS = [0.25, 0.5, 0.75, 1];
const SIGNS = ["pointerdown", "pointermove", "keydown", "touchstart", "scroll"];

let track: (event: string, properties: Properties) => void;
let item: Properties | null = null;
let isDeclared = false; // by a call, not by the document
let dwellMs = 0;
let depth = 0; // the last one that was reported
let lastTick = 0;
let lastSign = 0;

export function start(given: typeof track): void {
  track = given;
  for (const sign of SIGNS) {
    addEventListener(sign, () => (lastSign = Date.now()), { passive: true, capture: true });
  }
  addEventListener("scroll", onScroll, { passive: true });
  setInterval(tick, TICK_MS);
  lookUp();
}

/** The page is about this item; null: about none. */
export function declare(id: string | number | null, requestId?: string): void {
  leaveItem();
  item = id === null ? null : { item_id: String(id), request_id: requestId };
  isDeclared = item !== null;
  lastSign = lastTick = Date.now();
}

/** Track the time since the last report. */
export function report(): void {
  count();
  if (item && dwellMs >= MIN_DWELL_MS) track("dwell", { ...item, seconds: Math.round(dwellMs / 100) / 10 });
  dwellMs = 0;
}

/** The person goes to another page, or the item changes. */
export function leaveItem(): void {
  report();
  item = null;
  isDeclared = false;
  depth = 0;
}

/** Declare the item that the document names, where no call has declared one. */
function lookUp(): void {
  if (isDeclared) return;
  const id = document.querySelector<HTMLElement>("[data-tidegate-item]")?.dataset.tidegateItem || null;
  if (id !== (item?.item_id ?? null)) {
    declare(id);
    isDeclared = false;
  }
}

function tick(): void {
  lookUp();
  if (document.visibilityState === "visible") count();
  lastTick = Date.now();
}

/** Add the time since the last tick, unless the person is idle or has not allowed it. A machine that slept has no ticks. */
function count(): void {
  const now = Date.now();
  if (now - lastSign < IDLE_MS && allowed()) dwellMs += Math.min(now - lastTick, 2 * TICK_MS);
  lastTick = now;
}

function onScroll(): void {
  const reached = (scrollY + innerHeight + 1) / document.documentElement.scrollHeight; // positions have fractions
  const passed = DEPTHS.filter((each) => each > depth && each <= reached).pop();
  if (item && passed && allowed()) track("scroll", { ...item, depth: (depth = passed) });
}
