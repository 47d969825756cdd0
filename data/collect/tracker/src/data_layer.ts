/**
 * Forward what a site pushes to `window.dataLayer` for Google Analytics 4: its e-commerce events, which list `items`.
 * https://developers.google.com/analytics/devguides/collection/ga4/ecommerce
 */
import type { Properties } from "./types";

export function start(track: (event: string, properties: Properties) => void): void {
  const layer = (window.dataLayer = window.dataLayer || []);
  const push = layer.push;
  const forward = (entry: unknown): void => {
    const found = ecommerceEvent(entry as Properties | null);
    if (found) track(...found);
  };
  layer.forEach(forward);
  layer.push = function (...entries: unknown[]): number {
    const result = push.apply(layer, entries);
    entries.forEach(forward);
    return result;
  };
}

/** Of `{event, ecommerce: {items}}` (Tag Manager) and of `gtag("event", name, {items})`, which pushes its arguments. */
function ecommerceEvent(entry: Properties | null): [string, Properties] | undefined {
  const isCall = entry?.[0] === "event";
  const name = isCall ? entry[1] : entry?.event;
  const properties = (isCall ? entry[2] : entry?.ecommerce) as Properties | undefined;
  return typeof name === "string" && Array.isArray(properties?.items) ? [name, properties] : undefined;
}
