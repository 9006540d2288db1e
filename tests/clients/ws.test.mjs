// The npm package `ws`: subscribing, publishing, resuming, gaps and ends, with and without permessage-deflate.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import WebSocket from 'ws'
import { Gateway, Inbox, soon } from './gateway.mjs'

let gateway
before(async () => {
  gateway = await Gateway.started()
})
after(() => gateway.stop())

/** An open WebSocket with an inbox: texts as strings, binaries as buffers. `closed` is [code, reason]. */
async function open(url, options = {}) {
  const ws = new WebSocket(url, options)
  ws.inbox = new Inbox()
  ws.on('message', (data, isBinary) => ws.inbox.put(isBinary ? data : data.toString()))
  ws.closed = once(ws, 'close').then(([code, reason]) => [code, reason.toString()])
  await soon(once(ws, 'open'), `opening ${url}`)
  return ws
}

const textOf = (line) => JSON.parse(line).text

for (const perMessageDeflate of [true, false, { serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 0 }]) {
  const named = JSON.stringify(perMessageDeflate)

  test(`what one sends reaches all as it is, deflate ${named}`, async () => {
    const channel = `echo-${named.length}`
    const one = await open(gateway.ws(channel), { perMessageDeflate })
    const two = await open(gateway.ws(channel), { perMessageDeflate })
    assert.equal(one.extensions.includes('permessage-deflate'), Boolean(perMessageDeflate))
    const long = 'tide '.repeat(20_000)
    for (const sent of ['text', '{"a": 1.50}', '', 'Grüße 🌊', Buffer.from([0, 255]), Buffer.from([]), long, long]) {
      one.send(sent)
      assert.deepEqual(await one.inbox.take(), sent)
      assert.deepEqual(await two.inbox.take(), sent)
    }
    one.ping('are you there')
    const [pong] = await soon(once(one, 'pong'), 'a pong')
    assert.equal(pong.toString(), 'are you there')
    one.close(1000, 'done')
    // The code is echoed, the reason is not.
    assert.deepEqual(await soon(one.closed, 'the close'), [1000, ''])
    two.terminate()
  })
}

test('a connection that was cut goes on after its last cursor', async () => {
  const seen = []
  let cursor = 'start'
  for (let cut = 0; cut < 5; cut++) {
    await gateway.publishNumbers('cut', cut * 4, cut * 4 + 4)
    const ws = await open(gateway.ws(`cut?envelope=1&since=${cursor}`))
    for (const line of await ws.inbox.takeMany(3)) {
      const message = JSON.parse(line)
      seen.push(Number(message.text))
      cursor = message.cursor
    }
    ws.terminate()
  }
  const ws = await open(gateway.ws(`cut?envelope=1&since=${cursor}`))
  for (const line of await ws.inbox.takeMany(20 - seen.length)) seen.push(Number(textOf(line)))
  ws.terminate()
  assert.deepEqual(seen, Array.from({ length: 20 }, (_, index) => index))
})

test('a gap closes a bare connection, and its reason is where to go on', async () => {
  const [first] = await gateway.publishNumbers('small.node', 0, 20)
  const bare = await open(gateway.ws(`small.node?since=${first}`))
  const [code, cursor] = await soon(bare.closed, 'the close')
  assert.equal(code, 4010)
  const resumed = await open(gateway.ws(`small.node?since=${cursor}`))
  assert.deepEqual(await resumed.inbox.takeMany(5), ['15', '16', '17', '18', '19'])
  resumed.terminate()
  const envelope = await open(gateway.ws(`small.node?envelope=1&since=${first}`))
  const { gap } = JSON.parse(await envelope.inbox.take())
  assert.deepEqual(gap, { channel: 'small.node', requested: first, resumed: cursor, reason: 'expired' })
  assert.deepEqual((await envelope.inbox.takeMany(5)).map(textOf), ['15', '16', '17', '18', '19'])
  envelope.terminate()
})

test('an end closes with 1000 after what came before it', async () => {
  const bare = await open(gateway.ws('fin'))
  const envelope = await open(gateway.ws('fin?envelope=1'))
  await gateway.publish('fin', 'last', { 'Tidegate-End': 'true' })
  assert.equal(await bare.inbox.take(), 'last')
  const [code, reason] = await soon(bare.closed, 'the close')
  assert.equal(code, 1000)
  assert.equal(textOf(await envelope.inbox.take()), 'last')
  assert.deepEqual(JSON.parse(await envelope.inbox.take()), { end: { channel: 'fin', cursor: reason } })
  envelope.terminate()
})

test('a restart is 1012 with the cursor to go on from, and the lost log is a gap', async () => {
  const gateway = await Gateway.started()
  const bare = await open(gateway.ws('r'))
  const [cursor] = await gateway.publishNumbers('r', 0, 1)
  assert.equal(await bare.inbox.take(), '0')
  await gateway.restart()
  assert.deepEqual(await soon(bare.closed, 'the close'), [1012, cursor])
  await gateway.publishNumbers('r', 1, 2)
  const envelope = await open(gateway.ws(`r?envelope=1&since=${cursor}`))
  const { gap } = JSON.parse(await envelope.inbox.take())
  assert.deepEqual([gap.requested, gap.reason], [cursor, 'epoch'])
  assert.equal(textOf(await envelope.inbox.take()), '1')
  envelope.terminate()
  await gateway.stop()
})
