// Prices: every symbol has its row, and who reads too slowly has the newest of each, not the oldest.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { example, sees } from './example.mjs'

const prices = example('06-prices')
const cell = (page, symbol, column) => page.locator('tr', { hasText: symbol }).locator('td').nth(column)

test('both markets and all symbols are seen, and go on after a restart', async (t) => {
  const page = await prices.visit(t)
  for (const symbol of ['gold', 'silver', 'platinum', 'brent', 'gas', 'power']) {
    await cell(page, symbol, 2).filter({ hasText: /^[\d.]+$/ }).waitFor()
  }
  assert.equal(await cell(page, 'gold', 0).textContent(), 'metals')
  assert.equal(await cell(page, 'gas', 0).textContent(), 'energy')
  await prices.restartGateway('SIGKILL')
  const seen = Number(await cell(page, 'gold', 3).textContent())
  await cell(page, 'gold', 3).filter({ hasText: new RegExp(`^(?!${seen}$)\\d+$`) }).waitFor()
  await sees(page, '#state', 'live')
})

/** Quotes copper `count` times, in far more bytes than a price needs. */
async function flood(first, count) {
  const quote = (_, at) =>
    JSON.stringify({ channel: 'prices.metals', event: 'copper', data: { price: first + at, note: '.'.repeat(1500) } })
  const body = Array.from({ length: count }, quote).join('\n')
  const answer = await fetch(`${prices.gateway}/publish?quiet=1`, { method: 'POST', body })
  assert.deepEqual(await answer.json(), { published: count, duplicates: 0, failed: 0 })
}

async function overflows() {
  const metrics = await fetch(prices.metrics).then((answer) => answer.text())
  return Number(/^tidegate_outbox_overflows_total\{policy="conflate"\} (\d+)$/m.exec(metrics)[1])
}

test('who stops reading is told that quotes were skipped, and has the newest', async (t) => {
  const page = await prices.visit(t)
  await sees(page, '#state', 'live')
  await page.getByRole('button', { name: 'Stop reading' }).click()
  await sees(page, '#state', 'stopped')
  // Until the sockets between hold no more, while nobody reads: tens of megabytes.
  let count = 0
  for (; (await overflows()) === 0; count += 5000) await flood(count, 5000)
  await page.getByRole('button', { name: 'Read on' }).click()
  await cell(page, 'copper', 2).filter({ hasText: new RegExp(`^${count - 1}$`) }).waitFor()
  assert.ok(Number(await page.locator('#skipped').textContent()) > 0)
  assert.ok(Number(await cell(page, 'copper', 3).textContent()) < count)
})
