// Headless Chromium's own EventSource, WebSocket and fetch, in pages of another loopback origin than the gateway's. The
// environment variable CHROMIUM names the browser.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { after, before } from 'node:test'
import { launch } from '../browser/chromium.mjs'
import { soon } from '../clients/gateway.mjs'
import { ask } from './matrix.mjs'

const SUBSCRIBERS = readFileSync(new URL('subscribers.mjs', import.meta.url))

let browser, server, site
/** What is to be done about a page that stands still, by the path that it waits for. */
const standing = new Map()
before(async () => {
  server = createServer((request, response) => {
    const stand = standing.get(request.url)
    if (stand) return stand(response)
    const isScript = request.url === '/subscribers.mjs'
    response.setHeader('Content-Type', isScript ? 'text/javascript' : 'text/html')
    response.end(isScript ? SUBSCRIBERS : '<!doctype html>')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  site = `http://127.0.0.1:${server.address().port}`
  browser = await launch()
})
after(async () => {
  await browser?.close()
  server?.close()
})

/** A page of a process of its own, since it is in a context of its own; those that nobody uses are used again. */
async function open() {
  const page = await browser.newPage()
  const it = { page, emit: undefined, turn: 0, path: `/still/${standing.size}` }
  standing.set(it.path, undefined)
  await page.exposeFunction('tell', (turn, events) => {
    // What is left of a client before this one is nobody's.
    if (turn === it.turn) for (const event of events) it.emit(event)
  })
  await page.goto(`${site}/`)
  return it
}
const free = []

async function start(options, emit) {
  const it = free.pop() ?? (await open())
  const { page, path } = it
  it.emit = emit
  it.turn++
  await page.evaluate(async ({ options, turn }) => {
    const { follow } = await import('/subscribers.mjs')
    let [events, isTelling] = [[], false]
    // What comes while something is being told is told together.
    const tell = async (event) => {
      events.push(event)
      if (isTelling) return
      isTelling = true
      while (events.length > 0) await globalThis.tell(turn, events.splice(0))
      isTelling = false
    }
    globalThis.unfollow = follow(globalThis, options, tell)
  }, { options, turn: it.turn })
  let answer
  return {
    /** As a page does that computes: its one thread waits for an answer that does not come. */
    async standStill() {
      const still = new Promise((resolve) => standing.set(path, resolve))
      page.evaluate((path) => {
        const request = new XMLHttpRequest()
        request.open('GET', path, false)
        request.send()
      }, path).catch(() => {})
      answer = await soon(still, 'standing still')
      return () => answer.end()
    },
    async end() {
      answer?.end()
      await page.evaluate(() => globalThis.unfollow())
      free.push(it)
    },
  }
}

ask('Chromium', ['ws', 'envelope', 'json', 'sse', 'ndjson', 'poll', 'long-poll'], start)
