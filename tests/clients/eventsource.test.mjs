// The npm package `eventsource`, which reconnects by itself, and `fetch` reading NDJSON as it comes.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { EventSource } from 'eventsource'
import { Gateway, Inbox, soon } from './gateway.mjs'

let gateway
before(async () => {
  gateway = await Gateway.started()
})
after(() => gateway.stop())

const EVENTS = ['message', 'tick', 'binary', 'tidegate-gap', 'tidegate-end', 'tidegate-error']

/** An EventSource whose events, of all names, are in `inbox`, and each request's Last-Event-ID in `requests`. */
async function open(url) {
  const requests = []
  const source = new EventSource(url, {
    fetch: async (input, init) => {
      const answer = await fetch(input, init)
      requests.push({ lastEventId: init.headers['Last-Event-ID'], status: answer.status })
      return answer
    },
  })
  source.requests = requests
  source.inbox = new Inbox()
  source.stopped = new Promise((resolve) => {
    source.addEventListener('error', () => {
      if (source.readyState === EventSource.CLOSED) resolve()
    })
  })
  for (const name of EVENTS) source.addEventListener(name, (event) => source.inbox.put(event))
  await soon(new Promise((resolve) => source.addEventListener('open', resolve)), `opening ${url}`)
  return source
}

/** The next event that is not the farewell of a gateway that is being stopped. */
async function next(source) {
  const event = await source.inbox.take('an event')
  return event.type === 'tidegate-error' ? next(source) : event
}

test('publications arrive as events with their cursors', async () => {
  const source = await open(gateway.url('events'))
  const cursors = await gateway.publishNumbers('events', 0, 2)
  await gateway.publish('events', '{"a":1}\n', { 'Content-Type': 'application/json', 'Tidegate-Event': 'tick' })
  await gateway.publish('events', Buffer.from([0xff]), { 'Content-Type': 'application/octet-stream' })
  const events = [await next(source), await next(source), await next(source), await next(source)]
  assert.deepEqual(events.map((it) => it.type), ['message', 'message', 'tick', 'binary'])
  assert.deepEqual(events.slice(0, 2).map((it) => [it.lastEventId, it.data]), [[cursors[0], '0'], [cursors[1], '1']])
  assert.deepEqual(JSON.parse(events[2].data), { a: 1 })
  assert.equal(events[3].data, '/w==')
  source.close()
})

for (const how of ['SIGTERM', 'SIGKILL']) {
  test(`it reconnects by itself after a restart (${how}), and is told what was lost`, async () => {
    const gateway = await Gateway.started()
    const source = await open(gateway.url('r'))
    const [cursor] = await gateway.publishNumbers('r', 0, 1)
    assert.equal((await next(source)).data, '0')
    await gateway.restart(how)
    const event = await next(source)
    assert.equal(event.type, 'tidegate-gap')
    const gap = JSON.parse(event.data)
    assert.deepEqual([gap.requested, gap.reason, gap.resumed], [cursor, 'epoch', event.lastEventId])
    const [again] = await gateway.publishNumbers('r', 1, 2)
    const message = await next(source)
    assert.deepEqual([message.data, message.lastEventId], ['1', again])
    assert.equal(source.requests.at(-1).lastEventId, cursor)
    source.close()
    await gateway.stop()
  })
}

test('it goes on where it was cut, and stops at the end for good', async () => {
  const source = await open(gateway.url('fin?since=start'))
  await gateway.publishNumbers('fin', 0, 3)
  for (const expect of ['0', '1', '2']) assert.equal((await next(source)).data, expect)
  await gateway.publish('fin', 'last', { 'Tidegate-End': 'true' })
  assert.equal((await next(source)).data, 'last')
  const end = await next(source)
  assert.equal(end.type, 'tidegate-end')
  assert.deepEqual(JSON.parse(end.data), { channel: 'fin', cursor: end.lastEventId })
  await soon(source.stopped, 'the end of the EventSource')
  assert.deepEqual(source.requests.at(-1), { lastEventId: end.lastEventId, status: 204 })
})

test('a gap is an event with the id to go on from', async () => {
  const [first] = await gateway.publishNumbers('small.sse', 0, 20)
  const source = await open(gateway.url(`small.sse?since=${first}`))
  const event = await next(source)
  assert.equal(event.type, 'tidegate-gap')
  const gap = JSON.parse(event.data)
  assert.deepEqual(gap, { channel: 'small.sse', requested: first, resumed: event.lastEventId, reason: 'expired' })
  for (const expect of ['15', '16', '17', '18', '19']) assert.equal((await next(source)).data, expect)
  source.close()
})

test('fetch reads NDJSON as it comes, and goes on with the last cursor', async () => {
  const seen = []
  let cursor = 'start'
  for (let cut = 0; cut < 3; cut++) {
    await gateway.publishNumbers('lines', cut * 3, cut * 3 + 3)
    const leave = new AbortController()
    const answer = await fetch(gateway.url(`lines?since=${cursor}`), {
      headers: { Accept: 'application/x-ndjson' },
      signal: leave.signal,
    })
    assert.ok(answer.headers.get('tidegate-cursor'))
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
    let text = ''
    for (let taken = 0; taken < 2; ) {
      const { value, done } = await soon(reader.read(), 'a line')
      assert.equal(done, false)
      text += value
      const lines = text.split('\n')
      text = lines.pop()
      for (const line of lines.filter(Boolean)) {
        const message = JSON.parse(line)
        seen.push(message.text)
        cursor = message.cursor
        taken++
      }
    }
    leave.abort()
  }
  const rest = await (await fetch(gateway.url(`lines?since=${cursor}`))).json()
  seen.push(...rest.messages.map((it) => it.text))
  assert.deepEqual(seen, Array.from({ length: 9 }, (_, index) => String(index)))
})
