// The app: quotes six symbols in two channels, in one request to POST /publish that goes on for ever.

import { Readable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'

const markets = {
  'prices.metals': { gold: 2650, silver: 31, platinum: 960 },
  'prices.energy': { brent: 74, gas: 2.9, power: 81 },
}

/** A random walk: somewhere a price changes, ten times a second. */
async function* quotes() {
  for (;;) {
    for (const [channel, prices] of Object.entries(markets)) {
      const symbols = Object.keys(prices)
      const event = symbols[Math.floor(Math.random() * symbols.length)]
      prices[event] *= 1 + (Math.random() - 0.5) / 100
      yield `${JSON.stringify({ channel, event, data: { price: Number(prices[event].toPrecision(6)) } })}\n`
    }
    await setTimeout(200)
  }
}

for (;;) {
  try {
    const body = Readable.from(quotes())
    // With `quiet` there is an answer of what failed alone.
    const response = await fetch(`${process.env.TIDEGATE_URL}/publish?quiet=1`, { method: 'POST', body, duplex: 'half' })
    for await (const chunk of response.body) process.stderr.write(chunk)
  } catch (error) {
    console.error('the gateway is away:', error.message)
  }
  await setTimeout(1000)
}
