/** The types that several files share, and what browsers have beyond TypeScript's own description of them. */

export type Purpose = "analytics" | "personalization" | "model_training";
export type Preferences = Record<Purpose, boolean>;
export type Properties = Record<string, unknown>;
export type MessageType = "track" | "page" | "identify" | "group" | "alias";

export interface Options {
  /** A key that may only write, and is made for this site. */
  writeKey: string;
  /** The collector's address, such as https://collect.example.com. */
  endpoint: string;
  /** "required": nothing is collected before `consent(...)`. "granted": the site has asked by its own means. */
  consent: "required" | "granted";
  /** Report a page at the start and whenever the path changes. */
  pages: boolean;
  /** Forward the e-commerce events of `window.dataLayer`. */
  dataLayer: boolean;
  /** Events wait this long for others to share a request, in milliseconds. */
  flushMs: number;
  /** The first pause after a failed request, in milliseconds. It doubles with each failure. */
  retryMs: number;
}

export interface Message {
  type: MessageType;
  messageId: string;
  timestamp: string;
  anonymousId: string;
  userId?: string;
  context: Properties & { consent: { categoryPreferences: Preferences } };
}

declare global {
  interface Navigator {
    globalPrivacyControl?: boolean;
    connection?: { type?: string };
    userAgentData?: { mobile: boolean };
  }
  interface Document {
    prerendering?: boolean;
  }
  interface Window {
    tidegate?: unknown;
    dataLayer?: unknown[];
  }
}
