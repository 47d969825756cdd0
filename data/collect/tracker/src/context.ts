/** Where and with what it happened, in Segment's form (https://segment.com/docs/connections/spec/common/#context). */
import { sessionId } from "./identity";
import type { Preferences, Properties } from "./types";

/** @param path of the page that the event belongs to, without its query. */
export function contextOf(
  path: string,
  preferences: Preferences,
): Properties & { consent: { categoryPreferences: Preferences } } {
  const { timeZone, locale } = Intl.DateTimeFormat().resolvedOptions();
  return {
    library: { name: "tidegate", version: "1" },
    sessionId: sessionId(),
    page: { path, referrer: referrerHost() },
    locale: navigator.language || locale,
    timezone: timeZone,
    screen: { orientation: matchMedia("(orientation:portrait)").matches ? "portrait" : "landscape" },
    network: network(),
    device: { type: deviceType() },
    campaign: campaign(),
    consent: { categoryPreferences: preferences },
  };
}

function referrerHost(): string | undefined {
  return document.referrer ? new URL(document.referrer).host : undefined;
}

/** Known on phones, for the most part. */
function network(): Properties | undefined {
  const type = navigator.connection?.type;
  return type === "wifi" || type === "cellular" ? { [type]: true } : undefined;
}

function deviceType(): "phone" | "tablet" | "desktop" {
  const agent = navigator.userAgent;
  if (navigator.userAgentData?.mobile) return "phone";
  // An iPad says that it is a Mac, but no Mac has a touch screen. A tablet with Android says Android and not Mobile.
  const isPad = /Macintosh/.test(agent) && matchMedia("(pointer:coarse)").matches;
  if (isPad || /iPad|Tablet|Android(?!.*Mobi)/.test(agent)) return "tablet";
  return /Mobi/.test(agent) ? "phone" : "desktop";
}

/** The campaign that the page's address names, with Segment's names; undefined if it names none. */
function campaign(): Properties | undefined {
  const found: Properties = {};
  new URLSearchParams(location.search).forEach((value, name) => {
    if (name.startsWith("utm_")) found[name === "utm_campaign" ? "name" : name.slice(4)] = value;
  });
  return Object.keys(found).length ? found : undefined;
}
