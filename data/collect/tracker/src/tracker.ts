/**
 * The browser tracker: `window.tidegate`. docs/tracker.md describes the calls.
 *
 * The snippet leaves a list in `window.tidegate`, to which calls are pushed until this file has loaded. The tracker takes
 * over that list: it makes the calls in order, and then `push` and the methods make calls at once.
 */
import { type Answers, allowed, answers, assumeGranted, CONSENT, setAnswers } from "./consent";
import { contextOf } from "./context";
import * as dataLayer from "./data_layer";
import * as delivery from "./delivery";
import * as engagement from "./engagement";
import { anonymousId, reset, setUser, userId, uuid } from "./identity";
import { add, queued } from "./queue";
import { PREFIX } from "./storage";
import type { MessageType, Options, Preferences, Properties } from "./types";

type Call = [name: string, ...values: unknown[]];
type Item = string | number | { item_id: string | number; position?: number };

let options: Options | undefined;
let isRunning = false;
let path = location.pathname;
const early: Call[] = []; // calls before `init`

const api = {
  init(given: Partial<Options>): void {
    if (options) return;
    if (document.prerendering) {
      document.addEventListener("prerenderingchange", () => call("init", given), { once: true });
      return;
    }
    if (!given.writeKey || !given.endpoint) throw new Error("init needs writeKey and endpoint");
    options = {
      consent: "required",
      pages: true,
      dataLayer: false,
      flushMs: 3_000,
      retryMs: 1_000,
      ...(given as Pick<Options, "writeKey" | "endpoint">),
    };
    delivery.start(options);
    watchPage();
    if (options.consent === "granted") assumeGranted();
    resume();
    const track = (...values: unknown[]): void => call("track", ...values);
    engagement.start(track);
    if (options.dataLayer) dataLayer.start(track);
    early.splice(0).forEach((each) => call(...each));
  },

  /** What the person allows. What is left out is a no; if nothing is left, all that is stored is removed. */
  consent({ analytics, personalization, model_training }: Partial<Preferences>): void {
    apply({ analytics, personalization, model_training });
  },

  page(name?: string, properties?: Properties): void {
    record("page", { name, properties });
  },

  track(event: string, properties: Properties = {}): void {
    record("track", { event, properties });
  },

  /** The person has logged in: what the browser did before is theirs. */
  identify(id?: string | number | null, traits: Properties = {}): void {
    if (id != null && id !== "" && allowed()) setUser(String(id));
    record("identify", { traits });
  },

  group(groupId: string | number, traits: Properties = {}): void {
    record("group", { groupId: String(groupId), traits });
  },

  alias(id: string | number, previousId?: string | number): void {
    if (allowed()) record("alias", { userId: String(id), previousId: String(previousId ?? anonymousId()) });
  },

  /** The items of a list that was shown, and the answer (`request_id`) that they came with. */
  impression(items: Item[], { requestId }: { requestId?: string } = {}): void {
    items.forEach((each, index) => {
      const { item_id, position } = typeof each === "object" ? each : { item_id: each };
      api.track("impression", { item_id: String(item_id), position: position ?? index + 1, request_id: requestId });
    });
  },

  item(id: string | number | null, { requestId }: { requestId?: string } = {}): void {
    engagement.declare(id, requestId);
  },

  /** Forget who this is, at logout. */
  reset,
};

function record(type: MessageType, fields: Properties): void {
  const preferences = allowed();
  if (!preferences) return;
  add({
    type,
    messageId: uuid(),
    timestamp: new Date().toISOString(),
    anonymousId: anonymousId(),
    userId: userId(),
    ...fields,
    context: contextOf(path, preferences),
  });
  delivery.sendSoon();
}

/** Begin if the person has allowed it before. */
function resume(): void {
  const before = answers();
  if (before) apply(before);
}

/** Begin or end with what a person allows. */
function apply(given: Answers): void {
  const isAllowed = setAnswers(given) !== null;
  if (isAllowed && !isRunning) {
    if (queued().length) delivery.sendSoon(0); // of the last page
    if (options!.pages) api.page();
  }
  if (!isAllowed) delivery.stop();
  isRunning = isAllowed;
}

function watchPage(): void {
  for (const name of ["pushState", "replaceState"] as const) {
    const change = history[name];
    history[name] = function (...values) {
      change.apply(history, values);
      onNavigation();
    };
  }
  addEventListener("popstate", onNavigation);
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    isRunning = false; // back from the browser's cache of pages: begin anew, with what holds now
    resume();
  });
  addEventListener("pagehide", onLeave);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") onLeave();
  });
  addEventListener("storage", ({ key, newValue }) => {
    if (key === PREFIX + CONSENT) apply(newValue === null ? null : answers()); // another tab has asked
  });
}

function onNavigation(): void {
  attempt("navigation", () => {
    if (location.pathname === path) return;
    engagement.leaveItem();
    path = location.pathname;
    if (options!.pages) api.page();
  });
}

function onLeave(): void {
  engagement.report();
  delivery.sendNow();
}

function call(name: string, ...values: unknown[]): void {
  if (!options && name !== "init") early.push([name, ...values]);
  else attempt(name, () => (api as Record<string, (...values: any[]) => void>)[name]!(...values));
}

/** The tracker must never break the code of the page that it runs in. */
function attempt(what: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    console.warn("tidegate:", what, error);
  }
}

const list = (window.tidegate = window.tidegate || []) as Call[] & Record<string, unknown>;
if (!list.isLoaded) {
  list.isLoaded = true;
  const waiting = list.splice(0);
  for (const name of Object.keys(api)) list[name] = (...values: unknown[]) => call(name, ...values);
  list.push = (...calls: Call[]): number => {
    calls.forEach((each) => call(...each));
    return 0;
  };
  waiting.forEach((each) => call(...each));
}
