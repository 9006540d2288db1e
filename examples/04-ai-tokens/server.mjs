// The app: takes a question, and streams the answer into a channel while the model speaks. The browser is answered at
// once, with the channel's name: nothing here waits for it, and it may go and come back.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { setTimeout } from 'node:timers/promises'

/** Stands for a model: says the same to the same question, word by word. */
async function* tokensOf(question) {
  const about = `You asked: “${question}” The moon pulls on the sea, and the earth turns below it.\n`
  const more = 'So the water comes and goes, twice a day, and nobody has to ask it for news. '
  for (const token of (about + more.repeat(5)).split(/(?<=\s)/)) {
    await setTimeout(50)
    yield token
  }
}

/** One request, whose body is written for as long as the model speaks; each line is published when it comes. */
async function answer(channel, question) {
  async function* publications() {
    for await (const token of tokensOf(question)) yield `${JSON.stringify({ channel, text: token })}\n`
    yield JSON.stringify({ channel, end: true })
  }
  const body = Readable.from(publications())
  const response = await fetch(`${process.env.TIDEGATE_URL}/publish?quiet=1`, { method: 'POST', body, duplex: 'half' })
  // What failed has a line each, and then come the sums.
  const lines = (await response.text()).trim().split('\n')
  if (JSON.parse(lines.at(-1)).failed !== 0) throw new Error(lines[0])
}

createServer(async (request, response) => {
  if (request.method === 'POST') {
    const channel = `answer.${randomUUID()}`
    answer(channel, await text(request)).catch((error) => console.error('not published:', error))
    response.end(channel)
  } else if (new URL(request.url, 'http://app').pathname === '/') {
    response.setHeader('Content-Type', 'text/html').end(await readFile('index.html'))
  } else {
    response.writeHead(404).end()
  }
}).listen(process.env.PORT, '127.0.0.1')
