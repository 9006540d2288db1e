// Answers that are streamed token by token: whoever refreshes in the midst, or comes later, has all of it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { example, sees } from './example.mjs'

const ai = example('04-ai-tokens')

test('an answer comes token by token, survives a refresh in its midst, and ends', async (t) => {
  const page = await ai.visit(t)
  const statuses = []
  page.on('response', (it) => it.url().includes('/channels/answer.') && statuses.push(it.status()))
  await page.locator('#question').fill('Why?')
  await page.getByRole('button').click()
  await sees(page, '#answer', 'You asked: “Why?”')
  const before = await page.locator('#answer').textContent()
  await page.reload()
  // Before its end, so the rest came behind the refresh.
  assert.ok(!before.endsWith('for news. '), before)
  await sees(page, '#state', 'answered, and closed')
  const answer = await page.locator('#answer').textContent()
  const expected = 'You asked: “Why?” The moon pulls on the sea, and the earth turns below it.\n' +
    'So the water comes and goes, twice a day, and nobody has to ask it for news. '.repeat(5)
  assert.equal(answer, expected)
  // The EventSource stopped at a 204, and asked no more.
  assert.deepEqual(statuses, [200, 200, 204])

  const friend = await ai.visit(t, page.url())
  await sees(friend, '#state', 'answered, and closed')
  assert.equal(await friend.locator('#answer').textContent(), expected)
})
