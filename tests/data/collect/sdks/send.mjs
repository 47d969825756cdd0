// Sends an identify, a page and COUNT views with an SDK for Node.js, and ends once they are delivered.
// node send.mjs SDK URL WRITE_KEY COUNT
import { Analytics } from '@segment/analytics-node'
import RudderAnalytics from '@rudderstack/rudder-sdk-node'

const [sdk, url, writeKey, count] = process.argv.slice(2)
const person = { userId: 'ann' }

function* calls() {
  yield ['identify', { ...person, traits: { plan: 'free' } }]
  yield ['page', { ...person, name: 'Home' }]
  for (let number = 0; number < Number(count); number++) {
    yield ['track', { ...person, event: 'view', properties: { item_id: `item-${number}` } }]
  }
}

async function segment() {
  const analytics = new Analytics({ writeKey, host: url })
  for (const [call, message] of calls()) analytics[call](message)
  await analytics.closeAndFlush()
}

async function rudder() {
  const analytics = new RudderAnalytics(writeKey, { dataPlaneUrl: url })
  for (const [call, message] of calls()) analytics[call](message)
  while (analytics.queue.length > 0) await analytics.flush()
  await analytics.flush()
}

await { '@segment/analytics-node': segment, '@rudderstack/rudder-sdk-node': rudder }[sdk]()
process.exit()
