// Sends an identify, a page and views with @segment/analytics-next, as a site's script does.
import { AnalyticsBrowser } from '@segment/analytics-next'

window.send = (url, writeKey, count) => {
  const analytics = AnalyticsBrowser.load({ writeKey, cdnURL: url })
  analytics.identify('ann', { plan: 'free' })
  analytics.page('Home')
  for (let number = 0; number < count; number++) analytics.track('view', { item_id: `item-${number}` })
}
