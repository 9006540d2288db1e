// The questions that are asked of each client of JavaScript on each of its wires. What it was told, in a word, is its
// cell; `matrix.txt` has what that must be, `cargo xtask matrix` compares. Each test has a gateway of its own.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { appendFileSync, readFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Gateway, Inbox, soon } from '../clients/gateway.mjs'

const CONFIG = fileURLToPath(new URL('tidegate.toml', import.meta.url))
const WEBSOCKETS = ['ws', 'envelope', 'json']
const POLLS = ['poll', 'long-poll']
const TOLD = { sse: 'event', ndjson: 'line', envelope: 'message', json: 'message', poll: 'field', 'long-poll': 'field' }

// `resume`: so many publications, at most so many of them under way, of so many bytes and more each.
const [COUNT, WINDOW, SIZE] = [300, 20, 100]
// Connections are cut after that many bytes of the gateway's, in the midst of something.
const CUTS = [1501, 2503, 3507]

// `slow`: a publication that compresses as little as text can, and how much of it may go before an outbox must be full.
const CHUNK = randomBytes(48 << 10).toString('base64')
const OVERFLOW_MAX = 96 << 20
// What a poller, who has no outbox, is behind; and what comes after the overflow where the log is short: far more than the
// gateway may take, but where it disconnects, for then there are 5 s in which to read that.
const [BEHIND, MORE, MORE_DISCONNECTED] = [4 << 20, 32 << 20, 4 << 20]
// What a gateway may take beside what it keeps in its log: its outbox and buffers, and the allocator's slack.
const MEMORY_SLACK = 24 << 20

/** What a client has been told. `client` ends and stops it. */
export class Follower {
  inbox = new Inbox()
  /** What came between messages. */
  told = []

  /** The next event of that kind; those before it are added to `told`. */
  async take(kind) {
    for (;;) {
      const event = await this.inbox.take(`a ${kind}, after ${JSON.stringify(this.told)}`)
      if (event.kind === kind) return event
      assert.ok(event.kind !== 'message' && event.said !== 'for good', `${JSON.stringify(event)} comes before a ${kind}`)
      // A poll's answer ends as it should, and tells nothing by that.
      if (event.kind !== 'closed' || event.said !== 200) this.told.push(event)
    }
  }

  async texts(count) {
    const texts = []
    while (texts.length < count) texts.push((await this.take('message')).said)
    return texts
  }
}

/** Between clients and the gateway: it resets the first connections that get more bytes than `cuts` has for them. */
class Proxy {
  constructor(address, cuts) {
    const [host, port] = address.split(':')
    this.cuts = [...cuts]
    this.sockets = new Set()
    this.server = createServer((client) => {
      const upstream = connect(Number(port), host)
      const ends = [client, upstream]
      for (const end of ends) {
        this.sockets.add(end)
        end.on('error', () => {})
        end.on('close', () => {
          this.sockets.delete(end)
          for (const it of ends) it.destroy()
        })
      }
      client.pipe(upstream)
      let got = 0
      upstream.on('data', (data) => {
        const limit = this.cuts[0] ?? Infinity
        const part = data.subarray(0, Math.max(limit - got, 0))
        got += part.length
        if (part.length > 0) client.write(part)
        if (got < limit) return
        this.cuts.shift()
        upstream.removeAllListeners('data')
        for (const end of ends) end.resetAndDestroy()
      })
    })
  }

  async listen() {
    this.server.listen(0, '127.0.0.1')
    await once(this.server, 'listening')
    return `127.0.0.1:${this.server.address().port}`
  }

  stop() {
    this.server.close()
    for (const socket of this.sockets) socket.destroy()
  }
}

/** The most memory that the gateway had, in bytes; 0 where the system does not tell. */
function memory(gateway) {
  if (process.platform !== 'linux') return 0
  return Number(/^VmHWM:\s*(\d+)/m.exec(readFileSync(`/proc/${gateway.process.pid}/status`, 'utf8'))[1]) << 10
}

/** Starts it where nobody who takes a port of the system's choice can come between its end and its next start. */
async function startToRestart(gateway) {
  for (let tries = 0; tries < 20; tries++) {
    gateway.address = `127.0.0.1:${12_000 + Math.floor(Math.random() * 20_000)}`
    try {
      return await gateway.start()
    } catch {
      // Somebody has it.
    }
  }
  throw new Error('no port is free')
}

const QUESTIONS = {
  async subscribe({ gateway, wire, follow }) {
    const follower = await follow('all')
    const cursors = []
    const publish = async (...args) => cursors.push((await gateway.publish('all', ...args)).cursor)
    await publish('{"n":1}', { 'Content-Type': 'application/json' })
    const events = [await follower.take('message')]
    // These are live, for it is there.
    await publish('Grüße\u2028🌊', { 'Tidegate-Event': 'named' })
    await publish(Buffer.from([0, 255, 10]), { 'Content-Type': 'image/png' })
    cursors.push(...(await gateway.publishNumbers('all', 0, 20)))
    while (events.length < cursors.length) events.push(await follower.take('message'))
    const numbers = Array.from({ length: 20 }, (_, index) => String(index))
    assert.deepEqual(events.map((it) => it.said), ['{"n":1}', 'Grüße\u2028🌊', 'base64:AP8K', ...numbers])
    if (wire === 'ws') return 'one channel'
    if (!POLLS.includes(wire)) assert.deepEqual(events.map((it) => it.cursor), cursors)
    const several = await follow('a,b,c')
    // One after another: between channels there is no order.
    for (const channel of ['a', 'b', 'a', 'c', 'b']) {
      await gateway.publish(channel, `to ${channel}`)
      const event = await several.take('message')
      assert.deepEqual([event.channel, event.said], [channel, `to ${channel}`])
    }
    return 'channels'
  },

  async resume({ gateway, wire, follow, onEnd }) {
    const proxy = new Proxy(gateway.address, CUTS)
    onEnd(() => proxy.stop())
    const follower = await follow('resume', 'start', await proxy.listen())
    const seen = []
    let published = 0
    const publish = async () => {
      const number = published++
      await gateway.publish('resume', `${number} ${CHUNK.slice(number, number + SIZE)}`)
    }
    while (published < WINDOW) await publish()
    // From now on one for each that has arrived: connections are cut while there is something under way.
    while (seen.length < COUNT) {
      seen.push(Number((await follower.take('message')).said.split(' ')[0]))
      if (published < COUNT) await publish()
    }
    assert.deepEqual(seen, Array.from({ length: COUNT }, (_, index) => index))
    assert.deepEqual(proxy.cuts, [], 'it was not cut as often as it should have been')
    // A client may ask again by itself where it has no answer yet.
    if (!POLLS.includes(wire)) assert.equal(follower.told.filter((it) => it.said === 'cut').length, CUTS.length)
    await gateway.publish('resume', 'that is all')
    assert.deepEqual(await follower.texts(1), ['that is all'])
    return { ws: 'counting', sse: 'by itself' }[wire] ?? 'since'
  },

  async gap({ gateway, wire, follow }) {
    const { cursor: stale } = await gateway.publish('short.gap', 'of another epoch')
    await gateway.restart('SIGKILL')
    const [early] = await gateway.publishNumbers('short.gap', 0, 20)
    let follower
    for (const [cursor, reason] of [[early, 'expired'], [stale, 'epoch']]) {
      follower = await follow('short.gap', cursor)
      if (wire === 'ws') {
        assert.equal((await follower.take('closed')).said, 4010)
      } else {
        const { said: gap } = await follower.take('gap')
        assert.deepEqual([gap.requested, gap.reason], [cursor, reason])
      }
      assert.deepEqual(await follower.texts(5), ['15', '16', '17', '18', '19'])
      assert.deepEqual(follower.told, [])
    }
    await gateway.publish('short.gap', '20')
    assert.deepEqual(await follower.texts(1), ['20'])
    return wire === 'ws' ? '4010' : TOLD[wire]
  },

  async end({ gateway, wire, follow }) {
    const follower = await follow('end')
    await gateway.publish('end', 'first')
    assert.deepEqual(await follower.texts(1), ['first'])
    await gateway.publish('end', 'last', { 'Tidegate-End': 'true' })
    assert.deepEqual(await follower.texts(1), ['last'])
    if (wire === 'ws') {
      const closed = await follower.take('closed')
      const again = await follower.take('closed')
      // The reason is the end's cursor: who comes back with it is told the end again.
      assert.deepEqual([closed.said, again.said, again.cursor], [1000, 1000, closed.cursor])
      return '1000'
    }
    const end = await follower.take('end')
    assert.equal(end.channel, 'end')
    if (wire === 'sse') {
      const closes = [(await follower.take('closed')).said, (await follower.take('closed')).said]
      assert.deepEqual(closes, ['cut', 'for good'])
      assert.equal(await gateway.metric('tidegate_requests_total{status="204"}'), 1)
      return 'event, 204'
    }
    if (wire === 'ndjson') assert.equal((await follower.take('closed')).said, 200)
    // Who asks for more is told the end again.
    if (wire === 'ndjson' || POLLS.includes(wire)) assert.equal((await follower.take('end')).channel, 'end')
    return TOLD[wire]
  },

  async restart(cell) {
    const { gateway, wire, follow } = cell
    await gateway.stop()
    await startToRestart(gateway)
    const follower = await follow('restart')
    const [first] = await gateway.publishNumbers('restart', 0, 1)
    assert.deepEqual(await follower.texts(1), ['0'])
    await gateway.stop()
    const cursor = await nextLife(cell, follower, first, 1)
    // An answer is no farewell: it asks again, is refused a connection, and asks again.
    const isSilent = () => follower.told.every((it) => it.kind === 'closed')
    if (POLLS.includes(wire)) assert.ok(isSilent())
    const told = POLLS.includes(wire) ? 'asks again' : toldOf(cell, follower, 'unavailable', 1012)
    follower.told = []
    await gateway.stop('SIGKILL')
    await nextLife(cell, follower, cursor, 2)
    assert.ok(isSilent())
    return told
  },

  async spill(cell) {
    const { follower, count, go } = await standStill(cell, 'spill')
    go()
    assert.deepEqual(await numbers(follower, count), Array.from({ length: count }, (_, index) => index))
    assert.deepEqual(follower.told.filter((it) => it.kind !== 'closed'), [])
    return 'lost 0'
  },

  async disconnect(cell) {
    const { follower, count, go } = await standStill(cell, 'disconnect')
    go()
    assert.deepEqual(await numbers(follower, count), Array.from({ length: count }, (_, index) => index))
    return `${toldOf(cell, follower, 'slow_consumer', 1013)}, lost 0`
  },

  async 'drop-oldest'(cell) {
    const { follower, count, go } = await standStill(cell, 'drop-oldest')
    go()
    const seen = await numbers(follower, count)
    // What is missing was told, and nothing else is.
    assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => a - b))
    assert.ok(seen.length < count)
    if (cell.wire === 'ws') {
      const told = toldOf(cell, follower, 'slow_consumer', 1013)
      assert.deepEqual(follower.told.slice(1).map((it) => it.said), [4010])
      return `${told}, 4010`
    }
    const gaps = follower.told.filter((it) => it.kind === 'gap')
    assert.deepEqual([...new Set(gaps.map((it) => it.said.reason))], ['slow'])
    return `gap ${TOLD[cell.wire]}`
  },
}

/** Starts the gateway again: what was after the cursor is lost, and told; what is new comes. Returns its cursor. */
async function nextLife({ gateway, wire }, follower, cursor, number) {
  await gateway.start()
  const [next] = await gateway.publishNumbers('restart', number, number + 1)
  if (wire === 'ws') {
    // First the end of the connection that it had; where that was told, with its last cursor.
    for (;;) {
      const closed = await follower.take('closed')
      if (closed.said === 4010) break
      assert.equal(closed.cursor, closed.said === 'cut' ? undefined : cursor)
      follower.told.push(closed)
    }
  } else {
    const { said: gap } = await follower.take('gap')
    assert.deepEqual([gap.requested, gap.reason], [cursor, 'epoch'])
  }
  assert.deepEqual(await follower.texts(1), [String(number)])
  return next
}

/** How the error that ended its connection was told: its close, and where there can be one a word before it. */
function toldOf({ wire }, follower, code, close) {
  const words = []
  if (wire !== 'ws') {
    const { said } = follower.told.find((it) => it.kind === 'error')
    assert.equal(said.code, code)
    assert.ok((said.retry_after ?? 1) > 0)
    words.push(`error ${TOLD[wire]}`)
  }
  if (WEBSOCKETS.includes(wire)) {
    assert.equal(follower.told.find((it) => it.kind === 'closed').said, close)
    words.push(close)
  }
  return words.join(', ')
}

/** A client that reads nothing until `go`, and what was published meanwhile: its outbox has overflowed. */
async function standStill({ gateway, wire, follow }, policy) {
  const channel = `slow.${policy}.x`
  const follower = await follow(channel)
  await gateway.publish(channel, '-1')
  assert.deepEqual(await follower.texts(1), ['-1'])
  const go = await follower.client.standStill()
  const before = memory(gateway)
  // Where nobody can be told of what was dropped, the oldest are not.
  const counted = wire === 'ws' && policy === 'drop-oldest' ? 'disconnect' : policy
  const isFull = () => gateway.metric(`tidegate_outbox_overflows_total{policy="${counted}"}`)
  let count = 0
  const published = async () => {
    await gateway.publish(channel, `${count++} ${CHUNK}`)
    return count * CHUNK.length
  }
  while (POLLS.includes(wire) ? (await published()) < BEHIND : !(await isFull())) {
    assert.ok((await published()) < OVERFLOW_MAX, 'its outbox does not overflow')
  }
  if (policy === 'drop-oldest') {
    const full = await published()
    while ((await published()) < full + (wire === 'ws' ? MORE_DISCONNECTED : MORE));
  }
  const grown = memory(gateway) - before
  const kept = policy === 'drop-oldest' ? 2 << 20 : count * CHUNK.length
  assert.ok(grown < kept + MEMORY_SLACK, `it took ${grown} bytes more`)
  return { follower, count, go }
}

/** The numbers of messages until the last one; each of them whole. */
async function numbers(follower, count) {
  const seen = []
  while (seen.at(-1) !== count - 1) {
    const [number, chunk] = (await follower.take('message')).said.split(' ')
    assert.equal(chunk.length, CHUNK.length)
    seen.push(Number(number))
  }
  return seen
}

/**
 * A test for each question to each wire. `start` starts a client for { address, path, wire, since } whose events it gives
 * to a function, and returns its `standStill`, which returns what ends that, and its `end`.
 */
export function ask(client, wires, start) {
  // Most of the time they wait.
  describe(client, { concurrency: 4 }, () => {
    for (const wire of wires) {
      for (const [question, answer] of Object.entries(QUESTIONS)) {
        // A poll has no outbox that could be full: it reads the log.
        if (POLLS.includes(wire) && ['disconnect', 'drop-oldest'].includes(question)) continue
        test(`${wire} ${question}`, (t) => cell(t, { client, wire, question, answer, start }))
      }
    }
  })
}

async function cell(t, { client, wire, question, answer, start }) {
  const begun = performance.now()
  const gateway = await Gateway.started({}, CONFIG)
  t.after(() => gateway.stop('SIGKILL'))
  const follow = async (path, since = 'start', address = gateway.address) => {
    const follower = new Follower()
    follower.client = await start({ address, path, wire, since }, (event) => follower.inbox.put(event))
    t.after(() => follower.client.end())
    return follower
  }
  const told = await answer({ gateway, wire, follow, onEnd: (end) => t.after(end) })
  const seconds = ((performance.now() - begun) / 1000).toFixed(1)
  const results = process.env.MATRIX_RESULTS
  if (results) appendFileSync(results, `${[client, wire, question, told, seconds].join('\t')}\n`)
}
