// An example as a person runs it: its `run`, the page that it names in Chromium, and Ctrl-C at the end. What is
// asserted is what one sees in the page.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createConnection } from 'node:net'
import { createInterface } from 'node:readline'
import { after, before } from 'node:test'
import { fileURLToPath } from 'node:url'
import { launch } from '../browser/chromium.mjs'
import { soon } from '../clients/gateway.mjs'

/** For each wait, in milliseconds: far above what it takes on a busy machine, so that a failure ends. */
const patience = 60_000

/** Starts the example before the tests of a file, and ends it, with all that it started, after them. */
export function example(name) {
  const it = new Example()
  before(() => it.start(name))
  after(() => it.stop())
  return it
}

class Example {
  #waiting = []

  async start(name) {
    const run = fileURLToPath(new URL(`../../examples/${name}/run`, import.meta.url))
    this.process = spawn(run, { stdio: ['ignore', 'pipe', 'inherit'] })
    this.ended = once(this.process, 'exit')
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      const [, url] = /^open (\S+)/.exec(line) ?? []
      if (url) [this.url, this.gateway] = [url, new URL(url).searchParams.get('gateway')]
      this.metrics ??= /^its metrics: (\S+)/.exec(line)?.[1]
      const [, pid] = /^the gateway is process (\d+)/.exec(line) ?? []
      if (pid) this.pid = Number(pid)
      if (pid) this.#waiting.splice(0).forEach((resolve) => resolve())
    })
    await Promise.race([
      this.#started(),
      this.ended.then(([code]) => assert.fail(`examples/${name}/run has ended with ${code}`)),
    ])
    this.browser = await launch()
  }

  /** Someone who opens the page; two of them share nothing. */
  async visit(t, url = this.url) {
    const context = await this.browser.newContext()
    t.after(() => context.close())
    context.setDefaultTimeout(patience)
    const page = await context.newPage()
    page.on('pageerror', (error) => (this.fault ??= error))
    await page.goto(url)
    return page
  }

  /** Ends the gateway, and comes back when it is there again. */
  async restartGateway(how) {
    const started = this.#started()
    process.kill(this.pid, how)
    await started
  }

  async stop() {
    await this.browser?.close()
    this.process?.kill('SIGINT')
    const [code] = await soon(this.ended, 'the end of the example')
    assert.equal(code, 0)
    for (const url of [this.url, this.gateway]) assert.ok(await isClosed(url), `${url} is still there`)
    assert.equal(this.fault, undefined)
  }

  #started() {
    return soon(new Promise((resolve) => this.#waiting.push(resolve)), 'the start of the gateway')
  }
}

/** Waits until what is seen at `selector` is `text`, or like it. */
export async function sees(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor({ timeout: patience })
}

async function isClosed(url) {
  const { hostname, port } = new URL(url)
  const socket = createConnection(Number(port), hostname)
  const [event] = await Promise.race(['connect', 'error'].map((event) => new Promise((resolve) => {
    socket.once(event, () => resolve([event]))
  })))
  socket.destroy()
  return event === 'error'
}
