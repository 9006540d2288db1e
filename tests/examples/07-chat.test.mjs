// The chat, with two people in windows of their own.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { example, sees } from './example.mjs'

const chat = example('07-chat')

async function enters(t) {
  const page = await chat.visit(t)
  await sees(page, '#state', /^connected$/)
  return { page, name: await page.locator('#me').innerText() }
}

async function says(page, text) {
  await page.locator('#text').fill(text)
  await page.getByRole('button', { name: 'Send' }).click()
}

const lines = (page) => page.locator('#messages li').allInnerTexts()

test('two people see each other come, speak and go', async (t) => {
  const ann = await enters(t)
  const bob = await enters(t)
  for (const { page } of [ann, bob]) {
    await sees(page, '#members li', ann.name)
    await sees(page, '#members li', bob.name)
  }
  await says(ann.page, 'Good morning <b>all</b>')
  await sees(bob.page, '#messages li', `${ann.name} Good morning <b>all</b>`)
  await says(bob.page, 'Hello')
  await sees(ann.page, '#messages li', `${bob.name} Hello`)
  assert.deepEqual(await lines(ann.page), [`${ann.name} Good morning <b>all</b>`, `${bob.name} Hello`])
  await bob.page.close()
  await ann.page.locator('#members li', { hasText: bob.name }).waitFor({ state: 'detached' })
})

test('a room has its own, is told where one is not, and what was said before one came', async (t) => {
  const ann = await enters(t)
  const bob = await enters(t)
  await ann.page.getByRole('button', { name: 'harbour' }).click()
  await says(ann.page, 'High water at six')
  await bob.page.getByRole('button', { name: 'harbour (1)' }).click()
  await sees(bob.page, '#messages li', 'High water at six')
  const late = await enters(t)
  await late.page.getByRole('button', { name: 'harbour (1)' }).click()
  assert.deepEqual(await lines(late.page), [`${ann.name} High water at six`])
})

test('who was cut comes back where they were, and what they said meanwhile is said once', async (t) => {
  const ann = await enters(t)
  const bob = await enters(t)
  await ann.page.getByRole('button', { name: 'weather' }).click()
  await bob.page.getByRole('button', { name: 'weather' }).click()
  await says(ann.page, 'before')
  await sees(bob.page, '#messages li', 'before')
  await bob.page.context().setOffline(true)
  await chat.restartGateway('SIGKILL')
  await sees(bob.page, '#state', 'reconnecting')
  await says(bob.page, 'from the tunnel')
  await sees(ann.page, '#messages li.note', 'Messages may be missing')
  await says(ann.page, 'meanwhile')
  await bob.page.context().setOffline(false)
  for (const { page } of [ann, bob]) {
    await sees(page, '#messages li', 'meanwhile')
    await sees(page, '#messages li', 'from the tunnel')
    const said = (await lines(page)).filter((it) => !it.includes('missing')).map((it) => it.replace(/^\S+ /, ''))
    assert.deepEqual(said.toSorted(), ['before', 'from the tunnel', 'meanwhile'])
  }
})

test('a connection that is cut goes on behind what it had: nothing is missing and nothing twice', async (t) => {
  const ann = await enters(t)
  const page = await chat.visit(t, 'about:blank')
  const cuts = []
  let reach
  const reached = new Promise((resolve) => (reach = resolve))
  await page.routeWebSocket(/\/connect$/, async (socket) => {
    // The second time the network is back when we say so.
    if (cuts.push(socket) > 1) await reached
    socket.connectToServer()
  })
  await page.goto(chat.url)
  await sees(page, '#state', /^connected$/)
  const before = await lines(page)
  await says(ann.page, 'first')
  await sees(page, '#messages li', 'first')
  await cuts[0].close()
  await sees(page, '#state', 'reconnecting')
  await says(ann.page, 'second')
  await sees(ann.page, '#messages li', 'second')
  reach()
  await says(ann.page, 'third')
  await sees(page, '#messages li', 'third')
  assert.deepEqual((await lines(page)).slice(before.length).map((it) => it.replace(/^\S+ /, '')), ['first', 'second', 'third'])
})
