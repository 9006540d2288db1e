// The gateway that the Node and browser suites talk to: one process on loopback, which a test may end and start again.
// The environment variable TIDEGATE names the program.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const program = process.env.TIDEGATE ?? 'target/release/tidegate'
const defaultConfig = fileURLToPath(new URL('tidegate.toml', import.meta.url))

/** For each wait on the network, in milliseconds: far above what it takes, so that a failure ends. */
export const patience = 20_000

/** Rejects when `promise` takes longer than `patience`. */
export function soon(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${patience} ms`)), patience)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** A queue of what arrives, for tests that take one after another. */
export class Inbox {
  #items = []
  #waiting = []

  put(item) {
    const take = this.#waiting.shift()
    if (take) take(item)
    else this.#items.push(item)
  }

  async take(what = 'a message') {
    if (this.#items.length > 0) return this.#items.shift()
    return soon(new Promise((resolve) => this.#waiting.push(resolve)), what)
  }

  async takeMany(count) {
    const items = []
    while (items.length < count) items.push(await this.take(`message ${items.length + 1} of ${count}`))
    return items
  }
}

export class Gateway {
  /** HOST:PORT; the same over restarts. */
  address = '127.0.0.1:0'

  /** @param {Record<string, string>} settings more of the environment's, such as TIDEGATE_WEBSOCKET__DEFLATE */
  constructor(settings = {}, config = defaultConfig) {
    this.env = { ...process.env, ...settings }
    this.config = config
  }

  static async started(settings, config) {
    const gateway = new Gateway(settings, config)
    await gateway.start()
    return gateway
  }

  async start() {
    const args = ['serve', '--dev', '--listen', this.address, '--config', this.config]
    this.process = spawn(program, args, { env: this.env, stdio: ['ignore', 'ignore', 'pipe'] })
    this.exited = once(this.process, 'exit')
    const said = []
    const listening = new Promise((resolve, reject) => {
      this.process.on('error', reject)
      const lines = createInterface({ input: this.process.stderr })
      lines.on('line', (line) => {
        said.push(line)
        const found = /listening on http:\/\/(\S+)/.exec(line)
        if (found) resolve(found[1])
      })
      lines.on('close', () => reject(new Error(`the gateway did not start:\n${said.join('\n')}`)))
    })
    this.address = await soon(listening, 'the start of the gateway')
  }

  /** Ends it: SIGTERM drains, SIGKILL is a crash. */
  async stop(how = 'SIGTERM') {
    this.process.kill(how)
    await soon(this.exited, 'the end of the gateway')
  }

  async restart(how = 'SIGTERM') {
    await this.stop(how)
    await this.start()
  }

  url(path) {
    return `http://${this.address}/channels/${path}`
  }

  ws(path) {
    return `ws://${this.address}/channels/${path}`
  }

  /** Publishes, and returns the answer's JSON. */
  async publish(channel, data, headers = {}) {
    const answer = await fetch(this.url(channel), { method: 'POST', body: data, headers })
    if (!answer.ok) throw new Error(`publishing: ${answer.status} ${await answer.text()}`)
    return answer.json()
  }

  /** A count of `/metrics`, with its labels. */
  async metric(name) {
    const lines = (await (await fetch(`http://${this.address}/metrics`)).text()).split('\n')
    return Number(lines.find((line) => line.startsWith(`${name} `))?.split(' ').at(-1) ?? 0)
  }

  /** Publishes each number as a text, and returns their cursors. */
  async publishNumbers(channel, from, to) {
    const cursors = []
    for (let number = from; number < to; number++) {
      cursors.push((await this.publish(channel, String(number))).cursor)
    }
    return cursors
  }
}
