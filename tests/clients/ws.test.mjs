// The npm package `ws`: publishing and commands, with and without permessage-deflate.

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
async function open(url, options = {}, protocols = []) {
  const ws = new WebSocket(url, protocols, options)
  ws.inbox = new Inbox()
  ws.on('message', (data, isBinary) => ws.inbox.put(isBinary ? data : data.toString()))
  ws.closed = once(ws, 'close').then(([code, reason]) => [code, reason.toString()])
  await soon(once(ws, 'open'), `opening ${url}`)
  return ws
}

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

for (const perMessageDeflate of [true, false]) {
  test(`envelopes subscribe, publish, resume and unsubscribe, deflate ${perMessageDeflate}`, async () => {
    const envelopes = (path) =>
      open(`ws://${gateway.address}${path}`, { perMessageDeflate }, ['tidegate.v1.json'])
    const take = async (ws) => JSON.parse(await ws.inbox.take())
    const ask = async (ws, id, command) => {
      ws.send(JSON.stringify({ id, ...command }))
      return take(ws)
    }
    const [a, b] = [`env.a.${perMessageDeflate}`, `env.b.${perMessageDeflate}`]
    const ws = await envelopes('/connect')
    assert.equal(ws.protocol, 'tidegate.v1.json')
    assert.equal((await take(ws)).welcome.ping, 25)
    for (const [index, channel] of [a, b].entries()) {
      const reply = await ask(ws, index + 1, { subscribe: { channel } })
      assert.deepEqual([reply.id, reply.subscribed.channel], [index + 1, channel])
    }
    // To another channel than it is subscribed to: nothing comes between command and reply.
    assert.equal((await ask(ws, 3, { publish: { channel: 'env.c', text: 'x' } })).published.duplicate, false)
    const long = 'tide '.repeat(1000)
    const { cursor } = await gateway.publish(a, long)
    const { message } = await take(ws)
    assert.deepEqual([message.channel, message.cursor, message.text], [a, cursor, long])
    ws.send(JSON.stringify({ publish: { channel: b, data: [1.5] } }))
    assert.deepEqual((await take(ws)).message.data, [1.5])
    assert.deepEqual(await ask(ws, 4, { unsubscribe: { channel: b } }), { id: 4, unsubscribed: { channel: b } })
    await gateway.publish(b, 'not for it')
    assert.deepEqual(await ask(ws, 5, { ping: {} }), { id: 5, pong: {} })
    ws.terminate()
    const [second] = await gateway.publishNumbers(a, 2, 3)
    const again = await envelopes(`/channels/${a}?since=${cursor}`)
    assert.ok((await take(again)).welcome)
    assert.deepEqual(await take(again), { subscribed: { channel: a, cursor } })
    assert.equal((await take(again)).message.cursor, second)
    again.send(Buffer.from('{"id":1,"ping":{}}'))
    const [code, reason] = await soon(again.closed, 'the close')
    assert.deepEqual([code, reason], [1003, 'tidegate.v1.json has text messages'])
  })
}
