// Headless Chromium against the gateway, from a page of another loopback origin: WebSocket with and without
// permessage-deflate, and fetch.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { Gateway, patience } from '../clients/gateway.mjs'
import { launch } from './chromium.mjs'

let browser, pages, gateway
before(async () => {
  pages = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<!doctype html>'))
  pages.listen(0, '127.0.0.1')
  await once(pages, 'listening')
  gateway = await Gateway.started()
  browser = await launch()
})
after(async () => {
  await browser?.close()
  await gateway?.stop()
  pages?.close()
})

/** A page of another origin than the gateway's, with `seen`, a list for what arrives. */
async function open(t) {
  const page = await browser.newPage()
  t.after(() => page.close())
  page.setDefaultTimeout(patience)
  await page.goto(`http://127.0.0.1:${pages.address().port}/`)
  await page.evaluate(() => {
    globalThis.seen = []
  })
  return page
}

/** What has arrived in the page, once it is `count` things or more. */
async function arrived(page, count) {
  await page.waitForFunction((count) => globalThis.seen.length >= count, count, { polling: 20 })
  return page.evaluate(() => globalThis.seen)
}

/** Opens a WebSocket whose messages and close are put into `seen`; returns its extensions. */
function openSocket(page, url) {
  return page.evaluate((url) => {
    const ws = new WebSocket(url)
    ws.binaryType = 'arraybuffer'
    globalThis.ws = ws
    ws.onmessage = ({ data }) => globalThis.seen.push(typeof data === 'string' ? data : [...new Uint8Array(data)])
    ws.onclose = ({ code, reason, wasClean }) => globalThis.seen.push({ code, reason, wasClean })
    return new Promise((resolve, reject) => {
      ws.onopen = () => resolve(ws.extensions)
      ws.onerror = () => reject(new Error('the WebSocket did not open'))
    })
  }, url)
}

for (const [deflate, extension] of [['true', 'permessage-deflate'], ['false', '']]) {
  test(`a WebSocket echoes with deflate = ${deflate}`, async (t) => {
    const gateway = await Gateway.started({ TIDEGATE_WEBSOCKET__DEFLATE: deflate })
    t.after(() => gateway.stop())
    const page = await open(t)
    const [agreed] = (await openSocket(page, gateway.ws('echo'))).split(';')
    assert.equal(agreed, extension)
    const long = 'tide '.repeat(20_000)
    await page.evaluate((long) => {
      for (const text of ['text', '{"a": 1.50}', '', 'Grüße 🌊', long, long]) globalThis.ws.send(text)
      globalThis.ws.send(new Uint8Array([0, 255]))
    }, long)
    assert.deepEqual(await arrived(page, 7), ['text', '{"a": 1.50}', '', 'Grüße 🌊', long, long, [0, 255]])
    await page.evaluate(() => globalThis.ws.close(1000, 'done'))
    assert.deepEqual((await arrived(page, 8))[7], { code: 1000, reason: '', wasClean: true })
  })
}

test('fetch publishes, and streams NDJSON as it comes', async (t) => {
  const page = await open(t)
  const { cursor, messages } = await page.evaluate(async (url) => {
    const publish = (number) =>
      fetch(url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'Idempotency-Key': `k${number}` },
        body: JSON.stringify({ number }),
      }).then((answer) => answer.json())
    await publish(0)
    const leave = new AbortController()
    const answer = await fetch(`${url}?since=start`, {
      headers: { Accept: 'application/x-ndjson' },
      signal: leave.signal,
    })
    const cursor = answer.headers.get('Tidegate-Cursor')
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
    const messages = []
    let text = ''
    while (messages.length < 3) {
      const { value, done } = await reader.read()
      if (done) throw new Error('the stream ended')
      text += value
      const lines = text.split('\n')
      text = lines.pop()
      for (const line of lines.filter(Boolean)) {
        messages.push(JSON.parse(line))
        // The next is published when this one has come: nothing waits for more.
        if (messages.length < 3) await publish(messages.length)
      }
    }
    leave.abort()
    const poll = await fetch(`${url}?since=${messages[0].cursor}`).then((answer) => answer.json())
    return { cursor, messages: [...messages, ...poll.messages] }
  }, gateway.url('lines'))
  assert.ok(cursor)
  assert.deepEqual(messages.map((it) => it.data.number), [0, 1, 2, 1, 2])
})
