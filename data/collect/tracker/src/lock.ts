/** One tab at a time sends, for all tabs of the site: by a Web Lock, or by a lease in storage where there are none. */
import { read, remove, write } from "./storage";

const LEASE = "lease";
const LEASE_MS = 30_000; // then the tab that took it counts as gone
const SETTLE_MS = 100; // until other tabs see what was written
const tab = String(Math.random());

/** Do some work while no other tab does any. If another one does, do nothing. */
export async function exclusively(work: () => Promise<void>): Promise<void> {
  if (!navigator.locks) return underLease(work); // not an https page, or an old browser
  await navigator.locks
    .request("tidegate", { ifAvailable: true }, (lock) => (lock ? work() : undefined))
    .catch(() => work()); // refused: such a page shares no storage with another tab either
}

async function underLease(work: () => Promise<void>): Promise<void> {
  const [owner, since] = (read(LEASE) ?? "").split(" ");
  if (owner && owner !== tab && Date.now() - Number(since) < LEASE_MS) return;
  const take = (): void => write(LEASE, `${tab} ${Date.now()}`);
  take();
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS * (1 + Math.random())));
  if (!read(LEASE)?.startsWith(tab)) return; // another tab took it at the same moment, or consent was withdrawn
  const renewal = setInterval(take, LEASE_MS / 3);
  await work();
  clearInterval(renewal);
  remove(LEASE);
}
