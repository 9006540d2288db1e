// The dashboard: what push.py publishes is drawn as it comes, also after the gateway was ended and came back.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { example, sees } from './example.mjs'

const dashboard = example('03-dashboard')
const points = (page, metric) => page.locator(`#${metric} polyline`).evaluate((it) => it.points.length)
const hasPoints = (page, count) =>
  page.waitForFunction((count) => document.querySelector('#load polyline').points.length >= count, count)

test('readings are drawn as they come, and whoever opens the page later has those before', async (t) => {
  const page = await dashboard.visit(t)
  await sees(page, '#state', 'live')
  await hasPoints(page, 2)
  for (const metric of ['load', 'memory', 'disk']) {
    assert.match(await page.locator(`#${metric} output`).innerText(), /^\d+(\.\d+)?$/)
  }
  const before = await points(page, 'memory')
  const later = await dashboard.visit(t)
  await hasPoints(later, before)
})

for (const how of ['SIGTERM', 'SIGKILL']) {
  test(`it goes on when the gateway was restarted (${how}), and says that something is missing`, async (t) => {
    const page = await dashboard.visit(t)
    await hasPoints(page, 1)
    await dashboard.restartGateway(how)
    await sees(page, '#note', 'the gateway was restarted')
    await sees(page, '#state', 'live')
    const before = await points(page, 'load')
    await hasPoints(page, before + 1)
  })
}
