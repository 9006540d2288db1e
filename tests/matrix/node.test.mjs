// Node's clients: the packages `ws`, `eventsource` and `undici`, each in threads of its own.

import { after } from 'node:test'
import { Worker } from 'node:worker_threads'
import { soon } from '../clients/gateway.mjs'
import { ask } from './matrix.mjs'

/** A client's thread, which subscribes once at a time. */
class Thread {
  #gate = new Int32Array(new SharedArrayBuffer(4))
  #done = {}

  constructor(library) {
    this.worker = new Worker(new URL('thread.mjs', import.meta.url), { workerData: { library, gate: this.#gate } })
    this.worker.on('message', ({ event, done }) => (done ? this.#done[done]() : this.emit(event)))
    this.worker.on('error', (error) => this.emit({ kind: 'closed', said: String(error) }))
  }

  follow(options, emit) {
    this.emit = emit
    this.worker.postMessage(['follow', options])
  }

  #ask(command) {
    const done = new Promise((resolve) => {
      this.#done[command] = resolve
    })
    this.worker.postMessage([command])
    return soon(done, command)
  }

  async standStill() {
    Atomics.store(this.#gate, 0, 0)
    await this.#ask('standStill')
    return () => this.#go()
  }

  #go() {
    Atomics.store(this.#gate, 0, 1)
    Atomics.notify(this.#gate, 0)
  }

  async end() {
    this.#go()
    await this.#ask('stop')
    this.free.push(this)
  }
}

const threads = []
after(() => Promise.all(threads.map((it) => it.worker.terminate())))

function start(library) {
  const free = []
  return async (options, emit) => {
    let thread = free.pop()
    if (!thread) {
      thread = new Thread(library)
      thread.free = free
      threads.push(thread)
    }
    thread.follow(options, emit)
    return thread
  }
}

ask('ws', ['ws', 'envelope', 'json'], start('ws'))
ask('eventsource', ['sse'], start('eventsource'))
ask('undici', ['ws', 'envelope', 'json', 'sse', 'ndjson', 'poll', 'long-poll'], start('undici'))
