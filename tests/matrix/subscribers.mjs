// Subscribers made of what every browser has (EventSource, WebSocket, fetch), whoever implements it: they run in pages
// and in threads of Node. `follow` tells `emit` of all that comes, as { kind, said, cursor, channel }: `message`, `gap`,
// `end`, `error` or `closed`. `said` is a message as it is or, if it is binary, `base64:` and that; what a gap, end or error
// says; how it was closed.

const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
const isCursor = (text) => /^[-0-9A-Z_][-0-9A-Z_a-z]{24}$/.test(text)

/** An entry in the JSON form, or what is told in its place. */
function jsonForm(it) {
  for (const kind of ['gap', 'end', 'error']) {
    if (!(kind in it)) continue
    const { resumed, cursor, channel } = it[kind]
    return { kind, said: it[kind], cursor: it.resume ?? resumed ?? cursor, channel }
  }
  const said = 'data' in it ? JSON.stringify(it.data) : it.text ?? `base64:${it.base64}`
  return { kind: 'message', said, cursor: it.resume ?? it.cursor, channel: it.channel }
}

function serverSent({ type, data, lastEventId: cursor }) {
  if (type.startsWith('tidegate-')) {
    const said = JSON.parse(data)
    return { kind: type.slice('tidegate-'.length), said, cursor, channel: said.channel }
  }
  // Of several channels: their data is the JSON form, and the id the joined cursor.
  if (data.startsWith('{"channel"')) return { ...jsonForm(JSON.parse(data)), cursor }
  return { kind: 'message', said: type === 'binary' ? `base64:${data}` : data, cursor }
}

/** What an answer to a poll tells, in the order in which it is to be taken; the last has where to go on. */
function polled({ messages, gaps, ended, cursor }) {
  const events = [
    ...gaps.map((gap) => ({ kind: 'gap', said: gap, channel: gap.channel })),
    ...messages.map(jsonForm),
    ...ended.map((channel) => ({ kind: 'end', said: { channel }, channel })),
  ]
  return events.map((event, index) => ({ ...event, cursor: index === events.length - 1 ? cursor : undefined }))
}

/** The event of a message on a WebSocket; undefined for what a subscriber has no use for. */
function webSocketMessage(wire, data) {
  if (wire === 'ws') return { kind: 'message', said: typeof data === 'string' ? data : `base64:${base64(data)}` }
  const it = JSON.parse(data)
  if (wire === 'envelope') return jsonForm(it)
  if ('message' in it) return jsonForm(it.message)
  return 'gap' in it || 'end' in it || 'error' in it ? jsonForm(it) : undefined
}

/** Reconnects by itself, with Last-Event-ID. */
function events({ EventSource }, url, emit) {
  const source = new EventSource(url)
  for (const name of ['message', 'named', 'binary', 'tidegate-gap', 'tidegate-end', 'tidegate-error']) {
    source.addEventListener(name, (event) => emit(serverSent(event)))
  }
  source.addEventListener('error', () => {
    emit({ kind: 'closed', said: source.readyState === EventSource.CLOSED ? 'for good' : 'cut' })
  })
  return () => source.close()
}

function socket({ WebSocket }, url, wire, emit) {
  return new Promise((resolve) => {
    const ws = new WebSocket(url, wire === 'json' ? ['tidegate.v1.json'] : [])
    ws.binaryType = 'arraybuffer'
    ws.onmessage = ({ data }) => {
      const event = webSocketMessage(wire, data)
      if (event) emit(event)
    }
    // What is to be known is in the close that follows.
    ws.onerror = () => {}
    ws.onclose = ({ code, reason }) => {
      emit({ kind: 'closed', said: code === 1006 ? 'cut' : code, cursor: isCursor(reason) ? reason : undefined })
      resolve()
    }
  })
}

async function stream({ fetch }, url, emit) {
  try {
    const answer = await fetch(url, { headers: { Accept: 'application/x-ndjson' } })
    if (answer.status !== 200) return emit({ kind: 'closed', said: answer.status })
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
    let text = ''
    for (;;) {
      const { value, done } = await reader.read()
      if (done) break
      const lines = (text + value).split('\n')
      text = lines.pop()
      for (const line of lines.filter(Boolean)) emit(jsonForm(JSON.parse(line)))
    }
    emit({ kind: 'closed', said: 200 })
  } catch {
    emit({ kind: 'closed', said: 'cut' })
  }
}

async function poll({ fetch }, url, emit) {
  try {
    const answer = await fetch(url)
    const told = await answer.json()
    if (answer.status === 200) for (const event of polled(told)) emit(event)
    emit({ kind: 'closed', said: answer.status })
  } catch {
    emit({ kind: 'closed', said: 'cut' })
  }
}

/**
 * All that a client is told, over its reconnects. An EventSource's are its own; else it is done as these clients'
 * documentation tells their users to: again, with the last cursor. What it returns stops that.
 */
export function follow(library, { address, path, wire, since }, emit) {
  const url = (cursor, more = '') => `//${address}/channels/${path}?since=${cursor}${more}`
  if (wire === 'sse') return events(library, `http:${url(since)}`, emit)
  const once = {
    ws: (cursor, emit) => socket(library, `ws:${url(cursor)}`, wire, emit),
    envelope: (cursor, emit) => socket(library, `ws:${url(cursor, '&envelope=1')}`, wire, emit),
    json: (cursor, emit) => socket(library, `ws:${url(cursor)}`, wire, emit),
    ndjson: (cursor, emit) => stream(library, `http:${url(cursor)}`, emit),
    poll: (cursor, emit) => poll(library, `http:${url(cursor)}`, emit),
    'long-poll': (cursor, emit) => poll(library, `http:${url(cursor, '&wait=2s')}`, emit),
  }[wire]
  let isStopped = false
  reconnect(wire, since, once, emit, () => isStopped)
  return () => {
    isStopped = true
  }
}

async function reconnect(wire, since, once, emit, isStopped) {
  let cursor = since
  let taken = 0
  while (!isStopped()) {
    let skip = taken
    await once(cursor, (event) => {
      if (isStopped()) return
      if (wire === 'ws' && event.kind === 'message') {
        // Bare messages have no cursors: after a cut it begins again where it began, and counts.
        if (skip > 0) return skip--
        taken++
      } else if (event.cursor) {
        cursor = event.cursor
        taken = skip = 0
      }
      emit(event)
    })
    // As it would poll, or back off, though not as long.
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
