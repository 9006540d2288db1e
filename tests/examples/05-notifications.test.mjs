// Notifications: each user their own, once each whatever the app had to retry, by streams and by long-polls.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { example, sees } from './example.mjs'

const app = example('05-notifications')
const as = (user) => `${app.url}&user=${user}`
const notes = (page) => page.locator('#notes li').allInnerTexts()

/** From whoever's page; returns what the app says of it. */
async function notify(page, to, text, { lose = false } = {}) {
  await page.locator('#to').selectOption(to)
  await page.locator('#text').fill(text)
  await page.locator('#lose').setChecked(lose)
  const answered = page.waitForResponse((it) => it.request().method() === 'POST')
  await page.getByRole('button', { name: 'Send' }).click()
  await answered
  await sees(page, '#sent', /attempts/)
  return page.locator('#sent').textContent()
}

test('a notification is for one user, and a retry of it is not seen', async (t) => {
  const ann = await app.visit(t, as('ann'))
  const bob = await app.visit(t, as('bob'))
  for (const page of [ann, bob]) await sees(page, '#wire', 'Server-Sent Events')
  assert.equal(await notify(ann, 'bob', 'once'), '1 attempts, no duplicate')
  await sees(bob, '#notes li', 'once')
  assert.equal(await notify(ann, 'bob', 'twice sent', { lose: true }), '2 attempts, the last a duplicate')
  // What comes behind it shows that it came once.
  await notify(ann, 'bob', 'last')
  await sees(bob, '#notes li', 'last')
  assert.deepEqual(await notes(bob), ['last', 'twice sent', 'once'])
  assert.deepEqual(await notes(ann), [])
  await sees(bob, '#unread', '(3)')
  await bob.getByRole('button', { name: 'Mark all' }).click()
  await bob.reload()
  await sees(bob, '#notes li', 'last')
  assert.equal(await bob.locator('#unread').textContent(), '')
})

for (const [how, breaks] of [['refuses', (route) => route.abort()], ['buffers', () => {}]]) {
  test(`where a proxy ${how} streams they come by long-poll`, async (t) => {
    const user = 'cem'
    const ann = await app.visit(t, as('ann'))
    const before = (await notify(ann, user, `before ${how}`)) && `before ${how}`
    const page = await app.visit(t, 'about:blank')
    await page.route((url) => url.pathname.startsWith('/channels/'), (route) =>
      route.request().resourceType() === 'eventsource' ? breaks(route) : route.continue())
    await page.goto(as(user))
    await sees(page, '#wire', 'long-poll')
    await sees(page, '#notes li', before)
    await notify(ann, user, `now ${how}`)
    await sees(page, '#notes li', `now ${how}`)
    assert.deepEqual((await notes(page)).slice(0, 2), [`now ${how}`, before])
  })
}
