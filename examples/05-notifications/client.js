// Follows a channel by EventSource, and by long-polls where that does not get through. The cursor is the same on both:
// nothing is lost on the way over, and nothing comes twice.

/** How long an EventSource may take to open. What buffers streams on the way (some proxies) never lets it. */
const patience = 5_000

export function follow(url, told) {
  let cursor = 'start'
  const message = (it) => {
    cursor = it.cursor
    told.message(it)
  }
  const gap = (it) => {
    cursor = it.resumed
    told.gap(it)
  }

  // `envelope=1`: each event has its cursor, time and payload in JSON, just as polls have it.
  const source = new EventSource(`${url}?envelope=1&since=${cursor}`)
  const giveUp = () => {
    clearTimeout(timer)
    source.close()
    longPoll()
  }
  const timer = setTimeout(giveUp, patience)
  source.onerror = giveUp
  source.onopen = () => {
    clearTimeout(timer)
    told.wire('Server-Sent Events')
    // It got through once: from now on it reconnects by itself.
    source.onerror = () => source.readyState === EventSource.CLOSED && giveUp()
  }
  source.onmessage = ({ data }) => message(JSON.parse(data))
  source.addEventListener('tidegate-gap', ({ data }) => gap(JSON.parse(data)))

  async function longPoll() {
    told.wire('long-poll')
    for (;;) {
      try {
        const answer = await fetch(`${url}?wait=25s&since=${cursor}`)
        if (!answer.ok) throw new Error(`${answer.status}`)
        const { messages, gaps, cursor: next } = await answer.json()
        gaps.forEach(gap)
        messages.forEach(message)
        cursor = next
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 1000 + 2000 * Math.random()))
      }
    }
  }
}
