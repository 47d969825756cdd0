/**
 * What a person allows. Only a yes counts; no answer is a no. The answer lies in storage, so that all tabs obey it, and
 * only if it allows something: who refuses leaves no trace.
 */
import { restrict } from "./queue";
import { clear, read, write } from "./storage";
import type { Preferences } from "./types";

export type Answers = Partial<Preferences> | null;

export const CONSENT = "consent";
let assumed: Answers = null;

/** Take a person who has not answered here for one who allows everything: the site has asked by its own means. */
export function assumeGranted(): void {
  assumed = { analytics: true, personalization: true, model_training: true };
}

/** What the person has answered; null: nothing, or what is stored is damaged. */
export function answers(): Answers {
  try {
    return JSON.parse(read(CONSENT) ?? "null") ?? assumed;
  } catch {
    return null;
  }
}

/** The purposes that events may serve now; null: none, so nothing may be collected. */
export const allowed = (): Preferences | null => effective(answers());

/** Store a person's answers and apply them to what is queued. If they allow nothing, remove all that is stored. */
export function setAnswers(given: Answers): Preferences | null {
  const preferences = effective(given);
  if (preferences) {
    write(CONSENT, JSON.stringify(given));
    restrict(preferences);
  } else {
    assumed = null;
    clear();
  }
  return preferences;
}

/** Global Privacy Control forbids personalization and training, whatever the site sets. */
function effective(given: Answers): Preferences | null {
  const mayReuse = navigator.globalPrivacyControl !== true;
  const preferences = {
    analytics: given?.analytics === true,
    personalization: given?.personalization === true && mayReuse,
    model_training: given?.model_training === true && mayReuse,
  };
  return Object.values(preferences).includes(true) ? preferences : null;
}
