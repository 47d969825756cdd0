/**
 * Small texts in localStorage, under keys of our own. What localStorage refuses (it is full, blocked or absent) is kept
 * in memory until the page closes.
 */

export const PREFIX = "tidegate.";
const memory = new Map<string, string>();

/** Run something on localStorage; undefined if there is none or it throws. Even reading `window.localStorage` may throw. */
function stored<T>(use: (area: Storage) => T): T | undefined {
  try {
    return use(localStorage);
  } catch {
    return undefined;
  }
}

export function read(key: string): string | null {
  return memory.get(key) ?? stored((area) => area.getItem(PREFIX + key)) ?? null;
}

export function write(key: string, value: string): void {
  const isStored = stored((area) => {
    area.setItem(PREFIX + key, value);
    return true;
  });
  if (isStored) memory.delete(key);
  else memory.set(key, value);
}

export function remove(key: string): void {
  memory.delete(key);
  stored((area) => area.removeItem(PREFIX + key));
}

/** The keys that start with a text, in order. */
export function keys(start: string): string[] {
  const names = stored((area) => Object.keys(area)) ?? [];
  const ours = names.filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));
  return [...new Set([...ours, ...memory.keys()])].filter((key) => key.startsWith(start)).sort();
}

/** Remove everything that the tracker has stored. */
export function clear(): void {
  keys("").forEach(remove);
}
