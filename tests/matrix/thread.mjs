// A client of Node's in a thread of its own: what it is told goes to the parent. It can be made to stand still, as a
// program does that computes, and then reads nothing.

import { parentPort, workerData } from 'node:worker_threads'
import { follow } from './subscribers.mjs'

const { library, gate } = workerData
const libraries = {
  ws: async () => ({ WebSocket: (await import('ws')).default }),
  eventsource: async () => ({ EventSource: (await import('eventsource')).EventSource }),
  undici: () => import('undici'),
}
const loaded = await libraries[library]()

let stop
const commands = {
  follow(options) {
    stop = follow(loaded, options, (event) => parentPort.postMessage({ event }))
  },
  standStill() {
    parentPort.postMessage({ done: 'standStill' })
    Atomics.wait(gate, 0, 0)
  },
  stop() {
    stop()
    parentPort.postMessage({ done: 'stop' })
  },
}
parentPort.on('message', ([command, options]) => commands[command](options))
